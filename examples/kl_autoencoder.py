"""Train the autoencoder of the latent diffusion model, and measure its reconstructions.

    python examples/kl_autoencoder.py --output runs/autoencoder

It encodes a 64 x 64 picture as 8 x 8 x 12 numbers. Training on the captioned emoji takes about 50
minutes on 2 cores, is resumable (start the same command again) and writes a preset to `--output`.
Expect 27.6 dB on held-out captions, and 26.4 dB with the noise.
`--evaluate DIR` only evaluates a preset: the peak signal-to-noise ratio on held-out captions, of
the posterior mean and of latents with noise of standard deviation 0.2.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

import kgen
from kgen.callbacks import Resume
from kgen.data import emoji
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.networks.conv import decoder, encoder
from kgen.tensors import as_seed, normal


def build(channels=(48, 96, 128), latent_channels=12, patch=2, **options):
    """Returns the autoencoder of the shipped model: 64 x 64 x 3 -> 8 x 8 x latent_channels."""
    return KLAutoencoder(
        encoder((64, 64, 3), latent_channels, channels=channels, patch=patch),
        decoder((8, 8, latent_channels), channels=channels, patch=patch),
        **{"latent_noise": 0.2, "kl_weight": 1e-2, "ema_decay": 0.999, "seed": 0, **options},
    )


def psnr(model, images, noise=0.0, seed=0):
    """Returns the mean over pictures of the PSNR of the rounded reconstruction, in dB.

    Args:
        model: a `KLAutoencoder`.
        images: uint8 `[N, H, W, 3]`.
        noise: standard deviation of noise on the standardised latents.
        seed: integer seed of that noise.
    """

    @tf.function
    def reconstruct(x, seed):
        z = model.encode(tf.cast(x, tf.float32) / 127.5 - 1)
        x_hat = model.decode(z + noise * normal(tf.shape(z), seed))
        return tf.cast(tf.round(tf.clip_by_value((x_hat + 1) * 127.5, 0, 255)), tf.uint8)

    values = []
    for start in range(0, len(images), 64):
        x = images[start : start + 64]
        x_hat = reconstruct(x, as_seed([seed, start])).numpy()
        error = np.mean((x.astype("float64") - x_hat) ** 2, axis=(1, 2, 3))
        values.append(10 * np.log10(255**2 / np.maximum(error, 1e-2)))
    return float(np.mean(np.concatenate(values)))


def train(output, epochs, batch_size, steps_per_epoch=None):
    """Trains, measures the latents and saves the preset."""
    keras.config.set_dtype_policy(kgen.distribution.default_precision())
    model = build()
    keras.config.set_dtype_policy("float32")
    data = emoji.load("train", batch_size=batch_size, recolour=0.2, drop_remainder=True)
    steps = epochs * (steps_per_epoch or len(data))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=min(200, steps // 2)
    )
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    if steps_per_epoch:
        data = data.take(steps_per_epoch)
    model.fit(data, epochs=epochs, callbacks=[Resume(output / "resume")])
    model.measure_latents(emoji.load("train", batch_size=64, captions="label"))
    model.save_to_preset(output)
    return model


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/autoencoder"))
    parser.add_argument(
        "--evaluate",
        type=pathlib.Path,
        metavar="DIR",
        help="evaluate this preset instead of training",
    )
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    args = parser.parse_args(argv)
    if args.evaluate is None:
        train(args.output, args.epochs, args.batch_size, args.steps_per_epoch)
    model = kgen.from_preset(args.evaluate or args.output)
    images = emoji.load_arrays("test")["images"]
    for noise in (0.0, 0.2):
        print(f"held-out captions, latent noise {noise}: {psnr(model, images, noise):.2f} dB")


if __name__ == "__main__":
    main()
