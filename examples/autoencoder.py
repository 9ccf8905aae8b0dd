"""Train an autoencoder on small grey pictures: plain, denoising, sparse, contractive, k-sparse.

    python examples/autoencoder.py --output runs/autoencoder                  # 2 minutes
    python examples/autoencoder.py --kind denoising --output runs/denoising
    python examples/autoencoder.py --kind sparse --data fashion_mnist

| --kind | what is added to the plain autoencoder, 784-256-64-256-784 |
| --- | --- |
| denoising | three pixels in ten of the input are salt or pepper |
| sparse | each unit of the code, in (0, 1), is to be active 5 % of the time |
| contractive | the squared norm of the Jacobian of the code, from one random projection |
| k-sparse | the 8 largest values of the code are kept |

Training is resumable: start the same command again. `--output` gets the preset, the training
curves, a sheet of pictures, inputs of the encoder and reconstructions, and below it, for each of
the first 40 units of the code, the change of the picture when the unit increases by one.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

import kgen
from kgen.callbacks import Resume
from kgen.corruption import SaltAndPepper
from kgen.data import grey
from kgen.networks import KSparse, mlp
from kgen.penalties import Contractive, TargetRate
from kgen.pictures import contact_sheet, save_png, training_curves
from kgen.tensors import as_seed

SHAPE, CODE = (28, 28, 1), (64,)
KINDS = ("plain", "denoising", "sparse", "contractive", "k-sparse")


def build(kind="plain", **options):
    """Returns an autoencoder of dense networks for grey pictures in [0, 1]."""
    encoder = mlp(SHAPE, CODE, hidden=(256,), activation="relu", name="encoder")
    parts = {
        "plain": {},
        "denoising": {"corruption": SaltAndPepper(0.3)},
        "sparse": {"penalties": (TargetRate(0.05, weight=1.0),)},
        "contractive": {"penalties": (Contractive(0.1, num_probes=1),)},
        "k-sparse": {},
    }[kind]
    if kind == "sparse":
        encoder = keras.Sequential([encoder, keras.layers.Activation("sigmoid")], name="encoder")
    if kind == "k-sparse":
        encoder = keras.Sequential([encoder, KSparse(8)], name="encoder")
    decoder = mlp(CODE, SHAPE, hidden=(256,), activation="relu", name="decoder")
    return kgen.Autoencoder(encoder, decoder, error="cross_entropy", **parts, **options)


def train(args):
    """Trains a model and saves it as a preset."""
    keras.utils.set_random_seed(args.seed)
    model = build(args.kind, seed=args.seed)
    data = grey.load(args.data, values="unit", batch_size=100, seed=args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    # XLA is faster for dense networks; for the Jacobian, its compilation takes too long.
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=args.kind != "contractive")
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    model.fit(data, epochs=args.epochs, callbacks=[Resume(args.output / "resume"), log])
    model.save_to_preset(args.output)
    training_curves(args.output / "curves.png", args.output / "log.csv")
    return model


def draw(model, data, output):
    """Draws reconstructions, and the effect of the units of the code."""
    x = next(iter(grey.load(data, "test", values="unit", batch_size=20)))
    given = x if model.corruption is None else model.corruption(x, as_seed(0))
    code = model.encode(x)
    rows = [x, given, model.reconstruct(given)]
    mean = tf.reduce_mean(code, axis=0, keepdims=True)
    step = tf.linalg.diag(3 * tf.math.reduce_std(code, axis=0))[:40]
    change = model.decode(mean + step) - model.decode(mean)
    rows.append(0.5 + 0.5 * change)
    pictures = np.round(np.concatenate(rows) * 255).astype("uint8")
    save_png(output / "reconstructions.png", contact_sheet(pictures, columns=20, scale=2))


def denoised(model, data):
    """Returns the mean binary cross-entropy of reconstructions of corrupted pictures, in nats."""
    errors = []
    for i, x in enumerate(data):
        code = model.encode(model.corruption(x, as_seed(i)))
        errors.append(-kgen.likelihoods.Bernoulli().log_prob(model.decoder(code), x))
    return float(tf.reduce_mean(tf.concat(errors, axis=0)))


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=KINDS, default="plain")
    parser.add_argument("--data", choices=grey.NAMES, default="mnist")
    parser.add_argument("--output", type=pathlib.Path, help="output folder; default: runs/KIND")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    args = parser.parse_args(argv)
    args.output = args.output or pathlib.Path("runs") / args.kind
    args.output.mkdir(parents=True, exist_ok=True)
    model = train(args)
    draw(model, args.data, args.output)
    test = grey.load(args.data, "test", values="unit", batch_size=500)
    print(model.evaluate(test, verbose=0, return_dict=True))
    if model.corruption is not None:
        print(f"from corrupted pictures: {denoised(model, test):.2f}")
    return model


if __name__ == "__main__":
    main()
