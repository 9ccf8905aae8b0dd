"""DreamBooth: fine-tune the shipped model on ten pictures of one character, a cat.

    python examples/dreambooth.py --output runs/dreambooth

The subject is the cat of Streamline Emojis (`examples/pictures/cat`), called "sks cat", where "sks"
is a rare word. So that other cats do not become that one, the model first generates pictures of
"cat" (`class/`), and is trained on these too. The rows of the sheet `after.png` are the subject by
its name, the subject in prompts without a training picture, and cats without the name;
`before.png` is the same before the training. With `--no-prior` the last row shows the effect of
training without the pictures of the class.

A LoRA is trained (`--everything` trains all weights). The same functions can be used with Stable
Diffusion, opened by `kgen.from_diffusers`.
"""

import argparse
import pathlib

import keras
import numpy as np
from lora import SHIPPED, draw, load, rate

import kgen
from kgen.finetuning import class_pictures, subject_batches
from kgen.pictures import contact_sheet, save_png

HERE = pathlib.Path(__file__).parent
SUBJECT, CLASS = "sks cat", "cat"
ROWS = (
    *("sks cat", "sks cat face", "smiling sks cat", "crying sks cat"),
    *("blue sks cat", "green sks cat", "sks cat with heart eyes", "sks cat, noto"),
    *("cat", "cat face, noto", "cat, twemoji", "dog face"),
)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/dreambooth"))
    parser.add_argument("--start", type=pathlib.Path, default=SHIPPED, help="preset to start from")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "pictures" / "cat")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument(
        "--everything", action="store_true", help="train all weights instead of a LoRA"
    )
    parser.add_argument(
        "--no-prior", action="store_true", help="train without pictures of the class"
    )
    parser.add_argument("--number", type=int, default=36, help="number of pictures of the class")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=18)
    parser.add_argument(
        "--learning-rate", type=float, help="peak learning rate (LoRA 1e-3, all weights 1e-4)"
    )
    parser.add_argument("--num-steps", type=int, default=20, help="number of solver steps")
    args = parser.parse_args(argv)
    precision = kgen.distribution.default_precision()
    model = kgen.from_preset(args.start, dtype=precision).with_settings(ema_decay=0.99)
    args.output.mkdir(parents=True, exist_ok=True)
    before = draw(model, ROWS, args)
    save_png(args.output / "before.png", contact_sheet(before, ROWS, columns=4))

    images, _ = load(args.folder, "")
    prior = {}
    if not args.no_prior:
        options = {"num_steps": args.num_steps}
        drawn = class_pictures(model, CLASS, args.number, args.output / "class", **options)
        prior = {"class_images": drawn, "class_prompt": CLASS}
    data = subject_batches(images, SUBJECT, batch_size=args.batch_size, **prior)
    keras.utils.set_random_seed(0)
    if not args.everything:
        model.enable_lora(args.rank, targets="dense")
    data = model.precompute(data, args.output / "latents", args.batch_size)  # frozen encoders
    peak = args.learning_rate or (1e-4 if args.everything else 1e-3)
    model.compile(keras.optimizers.Adam(rate(args.steps, peak), global_clipnorm=1.0))
    epochs = min(6, args.steps)
    steps = max(1, args.steps // epochs)
    model.fit(data.repeat(), epochs=epochs, steps_per_epoch=steps, verbose=2)
    model.save_to_preset(args.output)
    after = draw(model, ROWS, args)
    save_png(args.output / "after.png", contact_sheet(after, ROWS, columns=4))
    change = np.abs(after.astype("float32") - before).mean(axis=(1, 2, 3))
    print(f"Mean change of a pixel, of 255: with the name {change[:8].mean():.1f}, ", end="")
    print(f"without it {change[8:].mean():.1f}")


if __name__ == "__main__":
    main()
