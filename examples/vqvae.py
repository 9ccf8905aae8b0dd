"""Train a VQ-VAE on small grey pictures, and an autoregressive prior of its codes.

    python examples/vqvae.py --output runs/vqvae              # 10 minutes

A picture of 28 x 28 pixels is encoded as 7 x 7 codes, integers below 64. The prior is a recurrent
network that predicts the next of the 49 codes, row by row:

    p(k_1 ... k_49) = prod_i p(k_i | k_1 ... k_i-1)

Training is resumable: start the same command again. `--output` gets both models, the training
curves, reconstructions, samples of the prior and how often each code is used.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import kgen
from kgen.callbacks import Resume
from kgen.data import grey
from kgen.pictures import contact_sheet, save_png, training_curves
from kgen.tensors import as_seed, fold_in

SHAPE, WIDTH = (28, 28, 1), 16


def build(num_codes=64, **options):
    """Returns a convolutional VQ-VAE, 28 x 28 to 7 x 7."""
    x = keras.Input(SHAPE)
    h = layers.Conv2D(32, 4, 2, "same", activation="relu")(x)
    h = layers.Conv2D(64, 4, 2, "same", activation="relu")(h)
    h = layers.Conv2D(64, 3, 1, "same", activation="relu")(h)
    encoder = keras.Model(x, layers.Conv2D(WIDTH, 1)(h), name="encoder")
    z = keras.Input((7, 7, WIDTH))
    h = layers.Conv2D(64, 3, 1, "same", activation="relu")(z)
    h = layers.Conv2DTranspose(64, 4, 2, "same", activation="relu")(h)
    h = layers.Conv2DTranspose(32, 4, 2, "same", activation="relu")(h)
    decoder = keras.Model(z, layers.Conv2D(1, 3, 1, "same")(h), name="decoder")
    return kgen.VQVAE(encoder, decoder, num_codes, **options)


def build_prior(num_codes, length):
    """Returns a recurrent network with logits `[B, length, num_codes]` of the next code.

    The code `num_codes` is the start token.
    """
    codes = keras.Input((length,), dtype="int32")
    h = layers.Embedding(num_codes + 1, 64)(codes)
    h = layers.GRU(256, return_sequences=True)(h)
    return keras.Model(codes, layers.Dense(num_codes)(h), name="prior")


def sample(prior, num_samples, num_codes, seed=0):
    """Samples sequences of codes, int32 `[num_samples, length]`, one code after the other."""
    length, seed = prior.input_shape[1], as_seed(seed)

    @tf.function
    def word(codes, i):
        logits = tf.gather(prior(codes), i, axis=1)
        return tf.random.stateless_categorical(logits, 1, fold_in(seed, i), dtype=tf.int32)[:, 0]

    codes = np.full((num_samples, length + 1), num_codes, "int32")
    for i in range(length):
        codes[:, i + 1] = word(tf.constant(codes[:, :-1]), tf.constant(i))
    return codes[:, 1:]


def train(args):
    """Trains both models."""
    keras.utils.set_random_seed(args.seed)
    model = build(args.num_codes, seed=args.seed)
    data = grey.load(args.data, values="signed", batch_size=100, seed=args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    model.compile(keras.optimizers.Adam(1e-3))
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    model.fit(data, epochs=args.epochs, callbacks=[Resume(args.output / "resume"), log])
    model.save_to_preset(args.output)
    training_curves(args.output / "curves.png", args.output / "log.csv")

    codes = np.concatenate([model.encode(x).numpy() for x in data]).reshape(-1, 49)
    words = np.pad(codes[:, :-1], [(0, 0), (1, 0)], constant_values=args.num_codes)
    prior = build_prior(args.num_codes, 49)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    prior.compile(keras.optimizers.Adam(1e-3), loss=loss)
    prior.fit(words, codes, epochs=args.prior_epochs, batch_size=100)
    prior.save(args.output / "prior.keras")
    return model, prior


def draw(model, prior, data, output):
    """Draws reconstructions, samples and the use of the codes."""
    x = next(iter(grey.load(data, "test", values="signed", batch_size=500)))
    codes = model.encode(x)
    both = np.concatenate([x[:20], model.decode(codes[:20])])
    drawn = model.decode(sample(prior, 100, model.num_codes).reshape(-1, 7, 7)).numpy()
    for name, pictures, columns in (("reconstructions", both, 20), ("samples", drawn, 10)):
        pixels = np.round(np.clip((pictures + 1) * 127.5, 0, 255)).astype("uint8")
        save_png(output / f"{name}.png", contact_sheet(pixels, columns=columns, scale=2))
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = np.sort(np.bincount(codes.numpy().ravel(), minlength=model.num_codes))[::-1]
    figure, axis = pyplot.subplots(figsize=(7, 2.6))
    axis.bar(range(len(counts)), counts / counts.sum())
    axis.set(xlabel="code, sorted", ylabel="share", title="use of the codes")
    figure.tight_layout()
    figure.savefig(output / "codes.png", dpi=100)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=grey.NAMES, default="mnist")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/vqvae"))
    parser.add_argument("--num-codes", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--prior-epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    model, prior = train(args)
    draw(model, prior, args.data, args.output)
    test = grey.load(args.data, "test", values="signed", batch_size=500)
    print(model.evaluate(test, verbose=0, return_dict=True))
    return model, prior


if __name__ == "__main__":
    main()
