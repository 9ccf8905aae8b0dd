"""Train a variational autoencoder on small grey pictures and measure log p(x).

    python examples/vae.py --output runs/vae                          # 200-200-50, 20 minutes
    python examples/vae.py --model iwae-5 --start runs/vae --output runs/iwae-5
    python examples/vae.py --model tutorial --output runs/tutorial    # 2-D code, 1 minute

| --model | network | objective |
| --- | --- | --- |
| tutorial | 256-2, ReLU, batch 128: the VAE of the Keras tutorials | ELBO |
| vae | 200-200-50, tanh | ELBO, KL warm-up |
| iwae-5, iwae-50 | the same | the bound of 5 or 50 samples, doubly reparameterised gradient |
| gated | 300-300-40, gated linear units | ELBO, KL warm-up |

`--start DIR` starts from the networks of a preset. This is useful for an IWAE, whose bound has no
KL term to warm up: a VAE that was trained with a warm-up uses more units of its code. `--prior
mixture` and `--prior vamp` learn p(z), with `--start` initialised at the posteriors of pictures.

Pictures are binarised again in each epoch (`--data mnist`, `fashion_mnist`, or `emoji`, which needs
no download), or keep their 256 grey levels with `--likelihood logistic_mixture`, then without a
warm-up. Training is resumable: start the same command again. `--output` gets the preset, the
training curves, reconstructions, samples, and for a 2-D code the manifold, else traversals.

`--evaluate DIR` evaluates a preset on the test pictures (if binarised, then once): the terms of the
bound in nats, and the log likelihood by `--num-samples` importance samples per picture.
saved_models/README.md has the figures of these commands.
"""

import argparse
import functools
import pathlib

import keras
import numpy as np
import tensorflow as tf

import kgen
from kgen import likelihoods
from kgen.callbacks import Guard, PosteriorCollapse, Resume
from kgen.data import grey
from kgen.networks import mlp
from kgen.pictures import contact_sheet, save_png, training_curves
from kgen.priors import GaussianMixture, VampPrior

SHAPE = (28, 28, 1)
DENSE = {"hidden": (200, 200), "latent": 50, "activation": "tanh"}
ELBO = {"objective": "elbo", "num_samples": 1, "gradient": "reparameterised"}
IWAE = {"objective": "iwae", "gradient": "doubly_reparameterised"}
MODELS = {  # the networks, and what they learn
    "tutorial": ({"hidden": (256,), "latent": 2, "activation": "relu"}, ELBO),
    "vae": (DENSE, ELBO | {"warm_up": 20_000}),
    "iwae-5": (DENSE, IWAE | {"num_samples": 5}),
    "iwae-50": (DENSE, IWAE | {"num_samples": 50}),
    "gated": ({"hidden": (300, 300), "latent": 40, "gated": True}, ELBO | {"warm_up": 10_000}),
}


def build(hidden, latent, activation="tanh", gated=False, likelihood="bernoulli", **settings):
    """Returns a VAE of dense networks for small grey pictures."""
    network = {"activation": activation, "gated": gated}
    channels = likelihoods.get(likelihood).parameter_channels(1)
    return kgen.VAE(
        mlp(SHAPE, (2 * latent,), hidden=hidden, name="encoder", **network),
        mlp((latent,), (*SHAPE[:2], channels), hidden=hidden[::-1], name="decoder", **network),
        likelihood,
        **settings,
    )


def train(args):
    """Trains a model and saves it as a preset."""
    keras.utils.set_random_seed(args.seed)
    networks, settings = MODELS[args.model]
    settings = settings | {"ema_decay": 0.999, "seed": args.seed}
    if args.start is None:
        prior = learned_prior(args, (networks["latent"],))
        settings |= warm_up_of(args.likelihood)
        model = build(**networks, likelihood=args.likelihood, prior=prior, **settings)
    else:
        model = trained_on(args, **settings)
    batch_size = 128 if args.model == "tutorial" else 100
    values = values_of(model)
    data = grey.load(args.data, values=values, batch_size=batch_size, seed=args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    rate = learning_rate(args.learning_rate, args.epochs * len(data))
    model.compile(
        keras.optimizers.Adam(rate, global_clipnorm=200.0),
        jit_compile=True,
        skip_above=float("inf"),
        steps_per_execution=min(50, len(data)),
    )
    resume = Resume(args.output / "resume", save_every=args.save_every)
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    test = grey.load(args.data, "test", values=values, batch_size=500).take(2)
    collapse = PosteriorCollapse(test, args.output / "collapse", every=args.save_every)
    callbacks = [resume, log, collapse, Guard()]
    model.fit(data, epochs=args.epochs, callbacks=callbacks, verbose=args.verbose)
    model.save_to_preset(args.output, dtype="float32")
    training_curves(args.output / "curves.png", args.output / "log.csv")
    return model


def learning_rate(peak, steps):
    """Returns a schedule: a linear warm-up of at most 500 steps, then a cosine decay to zero."""
    warm_up = max(1, min(500, steps // 10))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=peak, warmup_steps=warm_up
    )


def warm_up_of(likelihood):
    """Returns arguments of `VAE` that disable the KL warm-up for pictures with grey levels.

    Their reconstruction term is thousands of nats, so that the code is used from the first step;
    without the KL, its posterior means would diverge.
    """
    return {} if likelihood == "bernoulli" else {"warm_up": 0}


def values_of(model):
    """Returns the argument `values` of `grey.load` for a model."""
    return "binary" if isinstance(model.likelihood, likelihoods.Bernoulli) else "signed"


def learned_prior(args, latent_shape):
    """Returns the prior that the command line selects, or None for N(0, I)."""
    if args.prior == "mixture":
        return GaussianMixture(args.components, latent_shape, seed=args.seed)
    if args.prior == "vamp":
        low = likelihoods.get(args.likelihood).low
        return VampPrior(args.components, SHAPE, low=low, seed=args.seed)
    return None


def trained_on(args, **settings):
    """Returns the model of the preset `args.start` with other settings, without a warm-up."""
    settings |= {"warm_up": 0}
    trained = kgen.from_preset(args.start)
    if args.prior is None:
        return trained.with_settings(**settings)
    prior = learned_prior(args, trained.latent_shape)
    model = trained.with_settings(prior=prior, **settings)
    if prior is not None:
        pictures = grey.load(
            args.data, values=values_of(model), batch_size=args.components, seed=args.seed
        )
        prior.begin_at(next(iter(pictures)), model.posterior)
        model.averages.reset()
    return model


def draw(model, data, output):
    """Draws reconstructions, samples, and the manifold or traversals of the code."""
    test = functools.partial(grey.load, data, "test", values=values_of(model))
    x = next(iter(test(batch_size=20)))
    pairs = tf.reshape(tf.stack([x, model.reconstruct(x)], axis=1), [-1, *SHAPE])
    pairs = pixels(model, pairs)
    save_png(output / "reconstructions.png", contact_sheet(pairs, columns=10, scale=2))
    samples = model.generate(100, seed=0)
    save_png(output / "samples.png", contact_sheet(samples, columns=10, scale=2))
    if model.latent_shape == (2,):
        # The unit square through the inverse distribution function of the prior: equal mass a tile.
        quantiles = tf.math.ndtri(np.linspace(0.025, 0.975, 20))
        codes = np.stack(np.meshgrid(quantiles, quantiles), axis=-1).reshape(-1, 2)
        name, columns = "manifold.png", 20
    else:
        mean = model.encode(x).numpy()
        spread = np.std(model.encode(next(iter(test(batch_size=500)))), axis=0)
        used = np.argsort(-spread)[:8]  # the units whose posterior mean moves most
        codes = np.repeat(mean[:1], 8 * 11, axis=0).reshape(8, 11, -1)
        for row, unit in enumerate(used):
            codes[row, :, unit] = np.linspace(-3, 3, 11)
        codes, name, columns = codes.reshape(8 * 11, -1), "traversals.png", 11
    pictures = pixels(model, model.decode(tf.constant(codes, tf.float32)))
    save_png(output / name, contact_sheet(pictures, columns=columns, scale=2))


def pixels(model, x):
    """Converts data of a model to uint8 pictures."""
    return likelihoods.to_uint8(model.likelihood, x).numpy()


def evaluate(model, args):
    """Prints the terms of the bound and the log likelihood on the test pictures."""
    data = grey.load(args.data, "test", values=values_of(model), batch_size=100, seed=0)
    model.compile(jit_compile=True)
    logs = model.evaluate(data, verbose=0, return_dict=True)
    for name in ("bound", *model.bound_names, "bits_per_dim"):
        print(f"{name}: {logs[name]:.3f}")
    x = np.concatenate(list(data.as_numpy_iterator()))[: args.num_test]
    log_p = model.log_likelihood(x, args.num_samples, chunk=50, jit_compile=True)
    error = np.std(log_p) / np.sqrt(len(log_p))
    print(
        f"-log p(x), {args.num_samples} importance samples, {len(x)} pictures: "
        f"{-np.mean(log_p):.2f} nats, standard error over pictures {error:.2f}"
    )


def arguments(description, models, default, rate, epochs, output):
    """Returns the parser that the examples of VAEs share; the last two arguments are help texts."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=models, default=default)
    parser.add_argument("--data", choices=grey.NAMES, default="mnist")
    parser.add_argument(
        "--likelihood", choices=("bernoulli", "logistic_mixture"), default="bernoulli"
    )
    parser.add_argument("--output", type=pathlib.Path, help=f"output folder; default: {output}")
    parser.add_argument("--epochs", type=int, help=f"number of epochs; default: {epochs}")
    parser.add_argument("--start", type=pathlib.Path, metavar="DIR", help="preset to start from")
    parser.add_argument(
        "--prior",
        choices=("normal", "mixture", "vamp"),
        help="default: normal, or that of the preset",
    )
    parser.add_argument(
        "--components", type=int, default=500, help="number of components of a learned prior"
    )
    parser.add_argument("--learning-rate", type=float, default=rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--save-every", type=int, default=10, help="number of epochs between two saves"
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
    parser.add_argument(
        "--num-samples",
        type=int,
        default=5000,
        help="number of importance samples per picture for --evaluate",
    )
    parser.add_argument(
        "--num-test", type=int, help="number of pictures for --evaluate; default: all"
    )
    return parser


def main(argv=None):
    """Runs the command line."""
    defaults = "400; tutorial 10, iwae-5 200, iwae-50 100", "runs/MODEL"
    args = arguments(__doc__, MODELS, "vae", 2e-3, *defaults).parse_args(argv)
    if args.evaluate is not None:
        return evaluate(kgen.from_preset(args.evaluate), args)
    args.output = args.output or pathlib.Path("runs") / args.model
    epochs = {"tutorial": 10, "iwae-5": 200, "iwae-50": 100}
    args.epochs = args.epochs or epochs.get(args.model, 400)
    args.output.mkdir(parents=True, exist_ok=True)
    model = train(args)
    draw(model, args.data, args.output)
    return model


if __name__ == "__main__":
    main()
