"""The argument parser of the command; it imports nothing else of kgen."""

import argparse
import pathlib
import re
from typing import NoReturn

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ANIMATION_SUFFIXES = (".gif", ".png", ".apng", ".webp")
DEFAULT_MODEL = "text_to_image"


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Prints the error and ends the process with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def positive_int(text: str) -> int:
    """Converts text to an integer of at least 1.

    Raises:
        ValueError: if the text is not an integer.
        argparse.ArgumentTypeError: if the integer is less than 1.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def positive_float(text: str) -> float:
    """Converts text to a positive and finite number.

    Raises:
        ValueError: if the text is not a number.
        argparse.ArgumentTypeError: if the number is not positive and finite.
    """
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive and finite, not {text}")
    return number


def finite_float(text: str) -> float:
    """Converts text to a finite number.

    Raises:
        ValueError: if the text is not a number.
        argparse.ArgumentTypeError: if the number is infinite or NaN.
    """
    number = float(text)
    if not abs(number) < float("inf"):
        raise argparse.ArgumentTypeError(f"must be finite, not {text}")
    return number


def fraction(text: str) -> float:
    """Converts text to a number in (0, 1].

    Raises:
        ValueError: if the text is not a number.
        argparse.ArgumentTypeError: if the number is outside of (0, 1].
    """
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, not {text}")
    return number


def port(text: str) -> int:
    """Converts text to a port number.

    Raises:
        ValueError: if the text is not an integer.
        argparse.ArgumentTypeError: if the integer is outside of [0, 65535].
    """
    number = int(text)
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"must be in [0, 65535], not {number}")
    return number


def size(text: str) -> tuple[int, int]:
    """Converts `HEIGHTxWIDTH`, or one number for a square, to height and width in pixels.

    Raises:
        argparse.ArgumentTypeError: if the text has another form.

    Example:
        >>> size("64x96"), size("64")
        ((64, 96), (64, 64))
    """
    match = re.fullmatch(r"([1-9]\d{0,4})(?:[x,]([1-9]\d{0,4}))?", text.lower())
    if not match:
        raise argparse.ArgumentTypeError(f"must be HEIGHTxWIDTH in pixels, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


def build_parser() -> Parser:
    """Returns the parser of all commands.

    The parsed arguments have the attributes `name`, the command, and `module`, the full name of the
    module that runs it.
    """
    main = Parser(
        prog="kgen",
        description="Generate and edit pictures with kgen's models; train, evaluate, serve and "
        "export the models.",
    )
    commands = main.add_subparsers(dest="name", metavar="COMMAND", required=True)

    common = Parser(add_help=False)
    group = common.add_argument_group("output of the command")
    group.add_argument(
        "--json", action="store_true", help="print the result as JSON, without progress"
    )
    group.add_argument("--quiet", action="store_true", help="print no progress")
    group.add_argument(
        "--traceback", action="store_true", help="print the Python traceback of an error"
    )

    def command(name: str, text: str) -> Parser:
        parser = commands.add_parser(name, help=text, description=text, parents=[common])
        parser.set_defaults(module=f"kgen.cli.{name}")
        return parser

    _generate(command("generate", "Generate pictures, from a text if the model takes one."))
    _edit(command("edit", "Redraw all of a picture or a part of it, to match a text."))
    _interpolate(command("interpolate", "Make an animation from one text and noise to another."))
    _finetune(command("finetune", "Continue the training of a model on a folder of pictures."))
    _train(command("train", "Train a diffusion model from scratch on a folder of pictures."))
    _evaluate(command("evaluate", "Evaluate a model on pictures that it was not trained on."))
    _serve(command("serve", "Serve a model over HTTP, with a web page."))
    _export(command("export", "Write a model in a format that runs without kgen."))
    info = command("info", "Describe a model, or show how a picture was made.")
    info.add_argument(
        "target", metavar="MODEL_or_FILE", help="folder or name of a model, or a picture file"
    )
    return main


def _add_model(parser: Parser, default: str | None = DEFAULT_MODEL) -> None:
    parser.add_argument(
        "--model",
        metavar="DIR_or_NAME",
        default=default,
        help=f"folder or name of a preset, or hf://owner/name (default: {DEFAULT_MODEL})",
    )


def _add_sampling(parser: Parser) -> None:
    parser.add_argument("--negative", metavar="TEXT", help="text that guidance moves away from")
    parser.add_argument(
        "--steps", type=positive_int, help="number of solver steps (default: that of the model)"
    )
    parser.add_argument(
        "--guidance",
        type=finite_float,
        help="guidance scale: 1 is off, larger values follow the text more closely",
    )
    parser.add_argument(
        "--solver", metavar="NAME", help="name of a solver, such as dpm, ddim, heun or unipc"
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="seed of the noise; equal seeds give equal pictures (default: random)",
    )
    parser.add_argument("--batch-size", type=positive_int, help="number of pictures in a batch")


def _generate(parser: Parser) -> None:
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help='text or class of the pictures, such as "a red heart"',
    )
    _add_model(parser, None)
    _add_sampling(parser)
    parser.add_argument(
        "--count", type=positive_int, help="number of pictures per prompt (default: 1)"
    )
    parser.add_argument(
        "--size", type=size, metavar="HxW", help="height x width, if the model takes any size"
    )
    parser.add_argument(
        "--upscale", type=int, choices=(2, 4), help="enlarge the pictures with a Lanczos filter"
    )
    parser.add_argument(
        "--like",
        metavar="FILE",
        type=pathlib.Path,
        help="use the settings stored in this picture, except those given as options",
    )
    parser.add_argument(
        "--output",
        metavar="DIR_or_FILE",
        type=pathlib.Path,
        help="a folder; or a .png, .jpg or .webp file; or for an animation .gif, .png or .webp",
    )
    parser.add_argument(
        "--sheet", action="store_true", help="write all pictures on one sheet with labels"
    )
    parser.add_argument(
        "--animate", action="store_true", help="write an animation from noise to the picture"
    )


def _edit(parser: Parser) -> None:
    parser.add_argument(
        "picture", type=pathlib.Path, metavar="PICTURE", help="picture file to edit"
    )
    parser.add_argument(
        "prompts", nargs="*", metavar="PROMPT", help="text that describes the edited picture"
    )
    _add_model(parser)
    _add_sampling(parser)
    parser.add_argument(
        "--mask",
        metavar="FILE",
        type=pathlib.Path,
        help="picture file: white parts are redrawn, black parts are kept",
    )
    parser.add_argument(
        "--strength",
        type=fraction,
        help="how much the redrawn part changes, in (0, 1]; 1 keeps nothing of it (default: 0.6; "
        "with --mask 1)",
    )
    parser.add_argument(
        "--count", type=positive_int, default=1, help="number of results (default: 1)"
    )
    parser.add_argument(
        "--output",
        metavar="DIR_or_FILE",
        type=pathlib.Path,
        help="a folder, or a .png, .jpg or .webp file",
    )


def _interpolate(parser: Parser) -> None:
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="at least two prompts")
    _add_model(parser)
    _add_sampling(parser)
    parser.add_argument(
        "--frames",
        type=positive_int,
        default=24,
        help="number of frames of the animation (default: 24)",
    )
    parser.add_argument(
        "--same-noise", action="store_true", help="use one noise for all frames; change the text"
    )
    parser.add_argument(
        "--upscale", type=int, choices=(2, 4), help="enlarge the frames with a Lanczos filter"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=pathlib.Path, help="a .gif, .png or .webp file"
    )


def _add_training(parser: Parser) -> None:
    parser.add_argument("folder", type=pathlib.Path, metavar="FOLDER", help="folder of pictures")
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="DIR",
        required=True,
        help="folder for the trained model",
    )
    parser.add_argument("--minutes", type=positive_float, help="train for about this many minutes")
    parser.add_argument(
        "--steps",
        type=positive_int,
        help="number of training steps (default: by the number of pictures)",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=32,
        help="number of pictures per step (default: 32)",
    )
    parser.add_argument(
        "--learning-rate",
        type=positive_float,
        help="peak learning rate (default: by the number of pictures)",
    )
    parser.add_argument(
        "--caption", metavar="TEXT", help="caption of all pictures, if the folder has no captions"
    )
    parser.add_argument(
        "--sheet-steps",
        type=positive_int,
        default=20,
        help="number of solver steps for the sheets of samples (default: 20)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of the order of the data, the noise and the sheets of samples (default: 0)",
    )


def _finetune(parser: Parser) -> None:
    _add_training(parser)
    parser.add_argument(
        "--from",
        dest="model",
        metavar="DIR_or_NAME",
        default=DEFAULT_MODEL,
        help=f"model to start from (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--lora", type=positive_int, metavar="RANK", help="train only a LoRA of this rank"
    )


def _train(parser: Parser) -> None:
    _add_training(parser)
    parser.add_argument(
        "--from",
        dest="model",
        metavar="DIR_or_NAME",
        default=DEFAULT_MODEL,
        help=f"model with the frozen autoencoder and text encoder (default: {DEFAULT_MODEL})",
    )
    parser.add_argument(
        "--channels",
        type=positive_int,
        nargs="+",
        default=[96, 192],
        help="number of channels at each resolution of the U-Net (default: 96 192)",
    )


def _evaluate(parser: Parser) -> None:
    _add_positional_model(parser)
    parser.add_argument(
        "--data",
        metavar="DIR_or_NAME",
        help="folder of pictures, or one of emoji, mnist and fashion_mnist (default: emoji, for "
        "a model of 64 x 64 colour pictures)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "test"),
        default="test",
        help="split of a data set given by name (default: test)",
    )
    parser.add_argument(
        "--limit", type=positive_int, default=200, help="largest number of pictures (default: 200)"
    )
    parser.add_argument(
        "--steps", type=positive_int, help="number of solver steps (default: that of the model)"
    )
    parser.add_argument(
        "--guidance", type=finite_float, help="guidance scale (default: that of the model)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=32,
        help="number of pictures in a batch (default: 32)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        type=pathlib.Path,
        help="weights of EfficientNet-Lite0, a .pth file",
    )
    parser.add_argument(
        "--no-samples", action="store_true", help="do not evaluate generated pictures"
    )


def _serve(parser: Parser) -> None:
    _add_positional_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=port, default=8000, help="port; 0 is any free port (default: 8000)"
    )
    parser.add_argument(
        "--backend",
        metavar="URL",
        help="REST address of a TensorFlow Serving that runs the model; MODEL is its name there",
    )
    parser.add_argument(
        "--token-file",
        type=pathlib.Path,
        metavar="FILE",
        help="file whose first line is the bearer token that clients must send (default: the "
        "environment variable KGEN_TOKEN)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name that requests may use, besides localhost; * allows any",
    )
    parser.add_argument(
        "--size",
        type=size,
        action="append",
        default=[],
        metavar="HxW",
        help="another height x width to offer, if the model takes any size",
    )
    parser.add_argument(
        "--styles", metavar="NAMES", help="styles that the page suggests, separated by commas"
    )
    bounds = parser.add_argument_group("bounds")
    for name, default, text in (
        ("count", 8, "largest number of pictures per request"),
        ("steps", 100, "largest number of solver steps"),
        ("prompt", 1000, "largest number of characters of a prompt"),
        ("queue", 64, "largest number of pictures in the queue"),
        ("batch", 16, "largest number of pictures in a batch"),
    ):
        bounds.add_argument(
            f"--max-{name}", type=positive_int, default=default, help=f"{text} (default: {default})"
        )
    bounds.add_argument(
        "--timeout",
        type=positive_float,
        default=120.0,
        metavar="SECONDS",
        help="time after which a request fails (default: 120)",
    )


def _export(parser: Parser) -> None:
    _add_positional_model(parser)
    parser.add_argument(
        "--output", type=pathlib.Path, metavar="DIR", required=True, help="folder to write"
    )
    parser.add_argument(
        "--solver", metavar="NAME", help="name of a solver (default: that of the model)"
    )
    parser.add_argument(
        "--inputs",
        choices=("prompts", "token_ids"),
        help="what the functions of a text-to-image model take (default: prompts)",
    )
    parser.add_argument(
        "--editing", action="store_true", help="add functions for image to image and inpainting"
    )
    parser.add_argument(
        "--negatives", action="store_true", help="add functions that take a negative prompt"
    )
    parser.add_argument(
        "--from-noise", action="store_true", help="add a function that takes the initial noise"
    )
    parser.add_argument(
        "--warm-up", action="store_true", help="add warm-up requests for TensorFlow Serving"
    )
    parser.add_argument(
        "--max-steps",
        type=positive_int,
        default=1000,
        help="largest number of solver steps per call (default: 1000)",
    )
    parser.add_argument(
        "--max-batch",
        type=positive_int,
        default=64,
        help="largest number of examples per call (default: 64)",
    )
    parser.add_argument(
        "--parts",
        nargs="?",
        const="both",
        choices=("both", "litert", "onnx"),
        help="write each network as a LiteRT and an ONNX file, or as one of them, not a SavedModel",
    )
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "int8"),
        help="type of the stored weights: float16 or bfloat16, with --parts float16 or int8 "
        "(default: that of the model)",
    )


def _add_positional_model(parser: Parser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        default=DEFAULT_MODEL,
        help=f"folder or name of the model (default: {DEFAULT_MODEL})",
    )
