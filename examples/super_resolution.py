"""Train a diffusion model that makes pictures of 64 pixels from pictures of 16.

    python examples/super_resolution.py --output runs/super_resolution       # 40 minutes, 2 cores

The low-resolution picture is the condition (`kgen.conditioning.Picture`): it is enlarged and
concatenated to the noisy picture. The model generates the details that 16 x 16 pixels do not
determine, differently in each sample, so that a sample is sharp and the mean of several is close to
the true picture. The output is the peak signal-to-noise ratio on held-out pictures, in dB, of
bicubic interpolation, of one sample and of the mean of several; `--output` gets a sheet of them.
Expect 20.7, 21.1 and (of four samples) 22.8 dB.

Training is resumable: start the same command again. `--evaluate DIR` only evaluates a preset.

References:
  Saharia et al. (2021), https://arxiv.org/abs/2104.07636.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

import kgen
from kgen.callbacks import Resume
from kgen.conditioning import Picture
from kgen.data import emoji
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import UNet
from kgen.pictures import contact_sheet, save_png, training_curves

LOW, HIGH = 16, 64


def shrink(images):
    """Reduces pictures `[B, 64, 64, 3]` to 16 x 16 by the mean of each 4 x 4 pixels."""
    return tf.image.resize(images, (LOW, LOW), method="area")


def build(channels, **options):
    """Returns a diffusion model of pictures that is conditional on low-resolution ones."""
    network = UNet(
        (HIGH, HIGH, 3),
        channels=channels,
        blocks=1,
        attention=tuple(width == channels[-1] for width in channels),
        transformers=False,
        picture=3,
        patch=2,
    )
    process = GaussianDiffusion(CosineLogSNR(12.0, -9.0))
    conditioner = Picture((LOW, LOW, 3), (HIGH, HIGH))
    return kgen.DiffusionModel(
        network,
        process,
        weighting="sigmoid",
        times="cosine",
        conditioner=conditioner,
        cond_drop_rate=0.0,
        ema_decay=0.999,
        **options,
    )


def load(split, batch_size, seed=0):
    """Returns batches of pictures with their low-resolution versions."""
    data = emoji.load(split, batch_size=batch_size, captions="label", seed=seed)
    return data.map(lambda batch: {"images": batch["images"], "source": shrink(batch["images"])})


def train(args):
    """Trains a model and saves it as a preset."""
    keras.utils.set_random_seed(args.seed)
    model = build(args.channels, seed=args.seed)
    data = load("train", args.batch_size, args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, args.epochs * len(data), warmup_target=1e-3, warmup_steps=min(200, len(data))
    )
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    callbacks = [Resume(args.output / "resume"), log]
    model.fit(data, epochs=args.epochs, callbacks=callbacks, verbose=args.verbose)
    model.save_to_preset(args.output)
    training_curves(args.output / "curves.png", args.output / "log.csv")
    return model


def psnr(images, truth):
    """Returns the mean peak signal-to-noise ratio of pictures to the true ones, in dB."""
    error = np.mean((np.asarray(images, "float64") - truth) ** 2, axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-9))))


def evaluate(model, args):
    """Evaluates a model on held-out pictures, and writes a sheet of the first ones."""
    truth = emoji.load_arrays("test", styles=args.styles)["images"]
    rng = np.random.default_rng(args.seed)
    truth = truth[rng.permutation(len(truth))[: args.num_pictures]]
    small = shrink(tf.cast(truth, tf.float32))
    bicubic = tf.image.resize(small, (HIGH, HIGH), method="bicubic").numpy().clip(0, 255)
    samples = np.stack(
        [
            model.generate(small.numpy() / 127.5 - 1, num_steps=args.num_steps, seed=seed)
            for seed in range(args.num_samples)
        ]
    )
    mean = samples.mean(axis=0)
    print(f"{len(truth)} held-out pictures, {args.num_steps} steps, PSNR in dB:")
    print(f"bicubic interpolation {psnr(bicubic, truth):.2f}")
    print(f"one sample            {psnr(samples[0], truth):.2f}")
    print(f"mean of {args.num_samples} samples     {psnr(mean, truth):.2f}")
    nearest = tf.image.resize(small, (HIGH, HIGH), method="nearest").numpy()
    rows = [nearest, bicubic, samples[0], mean, truth]
    shown = min(10, len(truth))
    sheet = np.concatenate([row[:shown].round().astype("uint8") for row in rows])
    save_png(args.output / "super_resolution.png", contact_sheet(sheet, columns=shown))


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default="runs/super_resolution")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs="+", default=(48, 64, 96))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--num-steps", type=int, default=20, help="number of solver steps of the samples"
    )
    parser.add_argument(
        "--num-samples", type=int, default=8, help="number of samples of each picture"
    )
    parser.add_argument("--num-pictures", type=int, default=100, help="number of held-out pictures")
    parser.add_argument(
        "--styles", nargs="+", choices=emoji.STYLES, help="styles to train on; default: all"
    )
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    parser.add_argument(
        "--verbose", type=int, default=1, help="1 for a progress bar, 2 for one line per epoch"
    )
    parser.add_argument(
        "--evaluate",
        type=pathlib.Path,
        metavar="DIR",
        help="evaluate this preset instead of training",
    )
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    model = train(args) if args.evaluate is None else kgen.from_preset(args.evaluate)
    evaluate(model, args)
    return model


if __name__ == "__main__":
    main()
