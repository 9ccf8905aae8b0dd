"""Edit pictures with the shipped text-to-image model: no training needed.

    python examples/edit.py --output edit.png                             # about 1 minute

The sheet has four rows. Image to image: a picture of the data set, redrawn to match another prompt
at increasing strength. Inpainting: the half of a picture that is grey in the second tile is
generated for several prompts; the pixels of the other half are kept. Inversion: a picture, its
reconstruction by the autoencoder, and pictures generated from its inverted noise, with increasing
numbers of steps. Interpolation: from the noise of one picture to that of another along the great
circle; the prompt changes in the middle.
"""

import argparse
import pathlib

import numpy as np

import kgen
from kgen.data import emoji
from kgen.pictures import contact_sheet, save_png
from kgen.sampling.editing import slerp

SAVED = pathlib.Path(__file__).parents[1] / "saved_models"
STRENGTHS = (0.3, 0.45, 0.6, 0.75, 0.9, 1.0)
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def pictures(names, style="noto"):
    """Returns pictures of the data set by their labels, uint8 `[N, 64, 64, 3]`."""
    found = {}
    for batch in emoji.load("train", batch_size=256, styles=(style,), captions="label"):
        for image, label in zip(batch["images"].numpy(), batch["prompts"].numpy()):
            found.setdefault(label.decode().split(",")[0], image)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"`names` must be labels of the training split. Received: {missing}.")
    return np.stack([np.round((found[name] + 1) * 127.5).astype("uint8") for name in names])


def rows(model, num_steps, seed):
    """Returns the labelled rows of the sheet."""
    heart, dog, apple = pictures(["red heart", "dog face", "red apple"])

    def one(prompt, **options):
        options = {"num_steps": num_steps, "seed": seed, **options}
        return model.generate(prompt, **options)[0]

    row = [(heart, "red heart")]
    for strength in STRENGTHS:
        image = one("blue heart, noto", images=heart[None], strength=strength)
        row.append((image, f"blue heart, {strength:g}"))
    yield row

    mask = np.zeros([1, 64, 64, 1], "float32")
    mask[:, :, 32:] = 1
    hidden = np.where(mask[0] == 1, 200, dog).astype("uint8")
    row = [(dog, "dog face"), (hidden, "masked")]
    for prompt in ("dog face", "cat face", "panda", "robot", "lion"):
        row.append((one(f"{prompt}, noto", images=dog[None], mask=mask), prompt))
    yield row

    kept = model.autoencoder.reconstruct((apple[None] / 127.5 - 1).astype("float32"))
    kept = np.round(np.clip((np.asarray(kept) + 1) * 127.5, 0, 255)).astype("uint8")[0]
    row = [(apple, "red apple"), (kept, "autoencoder")]
    for steps in (5, 10, 20, 50, 100):
        noise = model.invert(apple[None], "red apple, noto", num_steps=steps)
        options = {"num_steps": steps, "solver": "ddim", "guidance_scale": 1.0}
        row.append((one("red apple, noto", noise=noise, **options), f"{steps} steps"))
    yield row

    names = ("red apple, noto", "red heart, noto")
    ends = [
        model.invert(image[None], name, num_steps=50) for image, name in zip((apple, heart), names)
    ]
    row = [(apple, "red apple")]
    for weight in WEIGHTS:
        noise = slerp(*ends, weight)
        options = {"num_steps": 50, "solver": "ddim", "guidance_scale": 1.0}
        row.append((one(names[round(weight)], noise=noise, **options), f"{weight:g}"))
    yield row


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("edit.png"))
    parser.add_argument("--preset", type=pathlib.Path, default=SAVED / "text_to_image")
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    model = kgen.from_preset(args.preset)
    tiles = [tile for row in rows(model, args.num_steps, args.seed) for tile in row]
    images, labels = zip(*tiles)
    save_png(args.output, contact_sheet(np.stack(images), labels, columns=7, scale=2))
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
