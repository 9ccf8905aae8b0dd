"""Train a hierarchical VAE on small grey pictures, from the top down, and measure log p(x).

    python examples/hvae.py --output runs/hvae                        # two dense levels
    python examples/hvae.py --model conv --output runs/hvae-conv      # twelve convolutional levels

| --model | levels | networks |
| --- | --- | --- |
| dense | 40 and 40 latents | 300-300, gated linear units |
| conv | 6 on 7 x 7 with 8 channels, 6 on 14 x 14 with 4 | residual, state of 64 and 32 channels |

As `vae.py`, whose options it shares: pictures are binarised again in each epoch or keep their grey
levels, training is resumable, and `--output` gets the preset and the pictures: training curves with
the KL of each level, reconstructions from the top k levels, samples, and samples at temperatures
from 0.4 to 1. `--evaluate DIR` evaluates a preset on the test pictures (if binarised, once).
saved_models/README.md has the figures of these commands.
"""

import functools
import pathlib

import keras
import numpy as np
import tensorflow as tf
import vae

import kgen
from kgen import likelihoods
from kgen.callbacks import Guard, Resume
from kgen.data import grey
from kgen.networks.hierarchy import conv_hierarchy, dense_hierarchy
from kgen.pictures import contact_sheet, save_png, training_curves

SHAPE = (28, 28, 1)
TEMPERATURES = (0.4, 0.6, 0.8, 1.0)


def build(kind="dense", *, likelihood="bernoulli", prior=None, warm_up=10_000, **options):
    """Returns a hierarchical VAE of small grey pictures; `prior` maps a shape of z_0 to p(z_0)."""
    channels = likelihoods.get(likelihood).parameter_channels(1)
    if kind == "dense":
        encoder, levels, decoder = dense_hierarchy(SHAPE, (40, 40), channels)
    else:
        encoder, levels, decoder = conv_hierarchy(SHAPE, channels)
    levels = [
        kgen.GaussianLevel(prior, posterior, merge, state_shape=shape, residual=kind == "conv")
        for prior, posterior, merge, shape in levels
    ]
    prior = prior and prior(levels[0].latent_shape)
    return kgen.HVAE(encoder, levels, decoder, likelihood, prior=prior, warm_up=warm_up, **options)


def train(args):
    """Trains a model and saves it as a preset."""
    keras.utils.set_random_seed(args.seed)
    conv = args.model == "conv"
    settings = {"ema_decay": 0.999, "seed": args.seed}
    if args.start is None:
        prior = functools.partial(vae.learned_prior, args)
        settings |= vae.warm_up_of(args.likelihood)
        model = build(args.model, likelihood=args.likelihood, prior=prior, **settings)
    else:
        model = vae.trained_on(args, **settings)
    values = vae.values_of(model)
    data = grey.load(args.data, values=values, batch_size=100, seed=args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    rate = vae.learning_rate(args.learning_rate, args.epochs * len(data))
    model.compile(
        keras.optimizers.Adam(rate, global_clipnorm=200.0),
        jit_compile=kgen.distribution.default_jit(dense=not conv),
        skip_above=1e4 if conv else float("inf"),
        steps_per_execution=1 if conv else min(50, len(data)),
    )
    resume = Resume(args.output / "resume", save_every=args.save_every)
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    model.fit(data, epochs=args.epochs, callbacks=[resume, log, Guard()], verbose=args.verbose)
    model.save_to_preset(args.output, dtype="float32")
    training_curves(args.output / "curves.png", args.output / "log.csv")
    return model


def draw(model, data, output):
    """Draws reconstructions from the top levels, and samples at several temperatures."""
    x = next(iter(grey.load(data, "test", values=vae.values_of(model), batch_size=20)))
    depths = np.unique(np.linspace(1, len(model.levels), 4).round().astype(int))
    rows = [x, *(model.reconstruct(x, int(depth)) for depth in depths)]
    pictures = vae.pixels(model, tf.concat(rows, axis=0))
    save_png(output / "reconstructions.png", contact_sheet(pictures, columns=20, scale=2))
    samples = model.generate(100, seed=0)
    save_png(output / "samples.png", contact_sheet(samples, columns=10, scale=2))
    rows = [model.generate(20, temperature=t, seed=1) for t in TEMPERATURES]
    save_png(output / "temperatures.png", contact_sheet(np.concatenate(rows), columns=20, scale=2))


def main(argv=None):
    """Runs the command line."""
    defaults = "dense 200, conv 150", "runs/hvae-MODEL"
    args = vae.arguments(__doc__, ("dense", "conv"), "dense", 1e-3, *defaults).parse_args(argv)
    if args.evaluate is not None:
        return vae.evaluate(kgen.from_preset(args.evaluate), args)
    args.output = args.output or pathlib.Path("runs") / f"hvae-{args.model}"
    args.epochs = args.epochs or {"dense": 200, "conv": 150}[args.model]
    args.output.mkdir(parents=True, exist_ok=True)
    model = train(args)
    draw(model, args.data, args.output)
    return model


if __name__ == "__main__":
    main()
