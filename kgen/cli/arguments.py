"""The arguments of the command, with nothing of kgen loaded."""

import argparse
import pathlib
import re

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
ANIMATIONS = (".gif", ".png", ".apng", ".webp")
DEFAULT_MODEL = "text_to_image"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message):
        """Ends with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def positive(text):
    """An integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def number_above_0(text):
    """A positive number."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return number


def finite(text):
    """A finite number."""
    number = float(text)
    if not abs(number) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite, not {text}")
    return number


def share(text):
    """A number in (0, 1]."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, not {text}")
    return number


def port(text):
    """A number of a port."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"must be in [0, 65535], not {number}")
    return number


def size(text):
    """`HxW`, or one number for a square.

    Example:
        >>> size("64x96"), size("64")
        ((64, 96), (64, 64))
    """
    match = re.fullmatch(r"([1-9]\d{0,4})(?:[x,]([1-9]\d{0,4}))?", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH in pixels, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


def parser():
    """Returns the parser of all commands."""
    main = Parser(prog="kgen", description="Draw, edit and train pictures with kgen's models.")
    commands = main.add_subparsers(dest="name", metavar="COMMAND", required=True)

    common = Parser(add_help=False)
    group = common.add_argument_group("output of the command")
    group.add_argument("--json", action="store_true", help="the result as JSON, no progress")
    group.add_argument("--quiet", action="store_true", help="no progress")
    group.add_argument("--traceback", action="store_true", help="where an error comes from")

    def command(name, text, module=None):
        made = commands.add_parser(name, help=text, description=text, parents=[common])
        made.set_defaults(module=f"kgen.cli.{module or name}")
        return made

    _generate(command("generate", "Draw pictures, of a text where the model takes one."))
    _edit(command("edit", "Redraw a picture after a text, all of it or a part."))
    _interpolate(command("interpolate", "An animation from one text and noise to another."))
    _finetune(command("finetune", "Train a model further on a folder of your pictures."))
    _train(command("train", "Train a text-to-image model of your pictures from scratch."))
    _evaluate(command("evaluate", "Measure a model on pictures it has not seen."))
    _serve(command("serve", "Offer a model over HTTP, with a page for browsers."))
    _export(command("export", "Write a model for programs without kgen."))
    info = command("info", "What a model is, or how a picture was made.")
    info.add_argument("what", metavar="MODEL_or_FILE", help="a model's folder or name, a picture")
    return main


def _model(made, default=DEFAULT_MODEL):
    text = f"folder of a preset, or a name in saved_models ({DEFAULT_MODEL})"
    made.add_argument("--model", metavar="DIR_or_NAME", default=default, help=text)


def _drawing(made):
    made.add_argument("--negative", metavar="TEXT", help="what to move away from")
    made.add_argument("--steps", type=positive, help="solver steps; the model has a default")
    made.add_argument("--guidance", type=finite, help="1 is off; more follows the text more")
    made.add_argument("--solver", metavar="NAME", help="such as dpm, ddim, heun, unipc")
    made.add_argument("--seed", type=int, help="the same seed, the same picture; random if none")
    made.add_argument("--batch-size", type=positive, help="pictures that are drawn at once")


def _generate(made):
    made.add_argument("prompts", nargs="*", metavar="PROMPT", help='such as "a red heart"')
    _model(made, None)
    _drawing(made)
    made.add_argument("--count", type=positive, help="pictures for each prompt (1)")
    made.add_argument("--size", type=size, metavar="HxW", help="where the model takes any size")
    made.add_argument("--upscale", type=int, choices=(2, 4), help="enlarge them (Lanczos)")
    made.add_argument("--like", metavar="FILE", type=pathlib.Path, help="repeat this picture")
    made.add_argument(
        "--output",
        metavar="DIR_or_FILE",
        type=pathlib.Path,
        help="a folder, or a file: .png, .jpg or .webp, of an animation .gif, .png or .webp",
    )
    made.add_argument("--sheet", action="store_true", help="all pictures on one labelled sheet")
    made.add_argument("--animate", action="store_true", help="the path from noise to the picture")


def _edit(made):
    made.add_argument("picture", type=pathlib.Path, metavar="PICTURE")
    made.add_argument("prompts", nargs="*", metavar="PROMPT", help="what it shall be")
    _model(made)
    _drawing(made)
    made.add_argument("--mask", type=pathlib.Path, help="a picture: white is painted, black kept")
    made.add_argument(
        "--strength", type=share, help="how much is redrawn: 1 is all; 0.6, with a mask 1"
    )
    made.add_argument("--count", type=positive, default=1, help="how many of them (1)")
    made.add_argument("--output", metavar="DIR_or_FILE", type=pathlib.Path)


def _interpolate(made):
    made.add_argument("prompts", nargs="+", metavar="PROMPT", help="two or more")
    _model(made)
    _drawing(made)
    made.add_argument("--frames", type=positive, default=24, help="pictures in all (24)")
    made.add_argument("--same-noise", action="store_true", help="change the text alone")
    made.add_argument("--upscale", type=int, choices=(2, 4), help="enlarge them (Lanczos)")
    made.add_argument("--output", metavar="FILE", type=pathlib.Path, help=".gif, .png or .webp")


def _training(made):
    made.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="of pictures")
    made.add_argument("--output", type=pathlib.Path, metavar="DIR", required=True)
    made.add_argument("--minutes", type=number_above_0, help="train for about so long")
    made.add_argument("--steps", type=positive, help="steps; by default by the number of pictures")
    made.add_argument("--batch-size", type=positive, default=32, help="pictures in a step (32)")
    made.add_argument("--learning-rate", type=number_above_0, help="its peak")
    made.add_argument("--caption", metavar="TEXT", help="of all, where the folder has none")
    made.add_argument(
        "--sheet-steps", type=positive, default=20, help="solver steps of sheets (20)"
    )
    made.add_argument("--seed", type=int, default=0, help="of order, noise and sheets (0)")


def _finetune(made):
    _training(made)
    made.add_argument("--from", dest="model", metavar="DIR_or_NAME", default=DEFAULT_MODEL)
    made.add_argument("--lora", type=positive, metavar="RANK", help="train a LoRA alone")


def _train(made):
    _training(made)
    made.add_argument(
        "--from",
        dest="model",
        metavar="DIR_or_NAME",
        default=DEFAULT_MODEL,
        help="whose autoencoder and text encoder are used as they are",
    )
    text = "channels of the U-Net's levels (96 192)"
    made.add_argument("--channels", type=positive, nargs="+", default=[96, 192], help=text)


def _evaluate(made):
    made.add_argument("model", nargs="?", metavar="MODEL", default=DEFAULT_MODEL)
    made.add_argument("--data", help="a folder, or emoji, mnist, fashion_mnist (by the model)")
    made.add_argument("--split", choices=("train", "test"), default="test", help="of named data")
    made.add_argument("--limit", type=positive, default=200, help="pictures at most (200)")
    made.add_argument("--steps", type=positive, help="solver steps")
    made.add_argument("--guidance", type=finite)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--batch-size", type=positive, default=32)
    made.add_argument("--weights", type=pathlib.Path, help="of EfficientNet-Lite0, a .pth file")
    made.add_argument("--no-samples", action="store_true", help="leave out what needs drawing")


def _serve(made):
    made.add_argument("model", nargs="?", metavar="MODEL", default=DEFAULT_MODEL)
    made.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    made.add_argument("--port", type=port, default=8000, help="0 is any that is free (8000)")
    made.add_argument(
        "--backend", metavar="URL", help="of TensorFlow Serving that draws; MODEL is its name there"
    )
    text = "whose first line clients must send as bearer token; or set KGEN_TOKEN"
    made.add_argument("--token-file", type=pathlib.Path, metavar="FILE", help=text)
    text = "by which the server may be called besides localhost; * is any"
    made.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=text)
    text = "further sizes, where the model takes any"
    made.add_argument("--size", type=size, action="append", default=[], metavar="HxW", help=text)
    text = "that the page suggests, parted by commas"
    made.add_argument("--styles", metavar="NAMES", help=text)
    bounds = made.add_argument_group("bounds")
    for name, default, text in (
        ("count", 8, "pictures in one request"),
        ("steps", 100, "solver steps"),
        ("prompt", 1000, "characters of a prompt"),
        ("queue", 64, "pictures that may wait"),
        ("batch", 16, "pictures that are drawn at once"),
    ):
        bounds.add_argument(
            f"--max-{name}", type=positive, default=default, help=f"{text} ({default})"
        )
    text = "until a request is given up (120)"
    bounds.add_argument(
        "--timeout", type=number_above_0, default=120.0, metavar="SECONDS", help=text
    )


def _export(made):
    made.add_argument("model", metavar="MODEL", nargs="?", default=DEFAULT_MODEL)
    made.add_argument("--output", type=pathlib.Path, metavar="DIR", required=True)
    made.add_argument("--solver", metavar="NAME")
    made.add_argument("--inputs", choices=("prompts", "token_ids"))
    made.add_argument("--editing", action="store_true", help="image to image and inpainting too")
    made.add_argument("--negatives", action="store_true", help="negative prompts too")
    made.add_argument("--from-noise", action="store_true", help="given noise too")
    made.add_argument("--warm-up", action="store_true", help="requests for TensorFlow Serving")
    made.add_argument("--max-steps", type=positive, default=1000, help="in one call (1000)")
    made.add_argument("--max-batch", type=positive, default=64, help="in one call (64)")
    text = "the networks one by one instead, as LiteRT and ONNX files, or those of one runtime"
    runtimes = ("both", "litert", "onnx")
    made.add_argument("--parts", nargs="?", const="both", choices=runtimes, help=text)
    text = "of the weights in the files: float16, bfloat16, or of parts float16, int8"
    made.add_argument("--dtype", choices=("float16", "bfloat16", "int8"), help=text)
