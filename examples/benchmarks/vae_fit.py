"""Compare `fit` of a VAE with a PyTorch loop and with a Keras model that has its own `train_step`.

    python examples/benchmarks/vae_fit.py                                  # kgen and Keras
    python examples/benchmarks/vae_fit.py --torch-python PATH/TO/python    # and PyTorch

The network is the VAE 200-200-50 of `examples/vae.py`, with tanh, batches of 100, Adam, float32, on
random pictures in memory, binarised beforehand. `keras` is the way of the tutorials: a subclass of
`keras.Model` whose `train_step` is a tape and `apply_gradients`, with `fit` and its defaults.
`torch` is a loop over a shuffled tensor, and `compiled` the same with `torch.compile`. The
interpreter given needs torch and numpy; nothing of PyTorch is needed otherwise.

Each candidate is a separate process, which warms up and then times several epochs. The candidates
alternate for `--rounds` rounds, so that other programs affect all of them. The output is images per
second, and the ratio of kgen to each other candidate: median and range over the rounds.
"""

import argparse
import functools
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import time

NUM, BATCH = 50_000, 100


def pictures():
    """Returns random binary pictures, float32 `[NUM, 784]`."""
    import numpy as np

    return (np.random.default_rng(0).random((NUM, 784)) < 0.13).astype("float32")


def timed(epoch, epochs):
    """Returns the images per second of `epoch()`, after a first call to warm up."""
    epoch()
    start = time.perf_counter()
    for _ in range(epochs):
        epoch()
    return epochs * NUM / (time.perf_counter() - start)


def run_kgen(epochs):
    """Times kgen, as in `examples/vae.py`."""
    import keras

    import kgen
    from kgen.networks import mlp

    model = kgen.VAE(
        mlp((784,), (100,), hidden=(200, 200)), mlp((50,), (784,), hidden=(200, 200)), seed=0
    )
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=True, steps_per_execution=50)
    x = pictures()
    return timed(lambda: model.fit(x, batch_size=BATCH, verbose=0), epochs)


def run_keras(epochs):
    """Times a Keras model with its own `train_step`, as in the tutorials."""
    import keras
    import tensorflow as tf
    from keras import layers

    class VAE(keras.Model):
        def __init__(self):
            super().__init__()
            hidden = [layers.Dense(200, activation="tanh") for _ in range(4)]
            self.encoder = keras.Sequential([*hidden[:2], layers.Dense(100)])
            self.decoder = keras.Sequential([*hidden[2:], layers.Dense(784, activation="sigmoid")])
            self.trackers = [keras.metrics.Mean(name=n) for n in ("loss", "reconstruction", "kl")]

        @property
        def metrics(self):
            return self.trackers

        def train_step(self, data):
            with tf.GradientTape() as tape:
                mean, log_var = tf.split(self.encoder(data), 2, axis=-1)
                z = mean + tf.exp(0.5 * log_var) * keras.random.normal(tf.shape(mean))
                output = self.decoder(z)
                losses = keras.losses.binary_crossentropy(data, output) * 784
                reconstruction = tf.reduce_mean(losses)
                kl = -0.5 * (1 + log_var - tf.square(mean) - tf.exp(log_var))
                kl = tf.reduce_mean(tf.reduce_sum(kl, axis=-1))
                loss = reconstruction + kl
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
            for tracker, value in zip(self.trackers, (loss, reconstruction, kl)):
                tracker.update_state(value)
            return {tracker.name: tracker.result() for tracker in self.trackers}

    model = VAE()
    model.compile(keras.optimizers.Adam(1e-3))
    x = pictures()
    return timed(lambda: model.fit(x, batch_size=BATCH, verbose=0), epochs)


def run_torch(epochs, compiled=False):
    """Times a plain PyTorch loop."""
    import torch
    from torch import nn

    def mlp(sizes):
        pairs = itertools.pairwise(sizes)
        return nn.Sequential(*[m for a, b in pairs for m in (nn.Linear(a, b), nn.Tanh())][:-1])

    encoder, decoder = mlp([784, 200, 200, 100]), mlp([50, 200, 200, 784])
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
    x = torch.from_numpy(pictures())
    bce = nn.functional.binary_cross_entropy_with_logits

    def loss_of(batch):
        mean, log_std = encoder(batch).chunk(2, -1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        reconstruction = bce(decoder(z), batch, reduction="sum") / BATCH
        kl = 0.5 * ((2 * log_std).exp() + mean**2 - 1 - 2 * log_std).sum(-1).mean()
        return reconstruction + kl

    if compiled:
        loss_of = torch.compile(loss_of)

    def epoch():
        for rows in torch.randperm(NUM).split(BATCH):
            optimizer.zero_grad()
            loss_of(x[rows]).backward()
            optimizer.step()

    return timed(epoch, epochs)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", help="interpreter with torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="number of timed epochs per round")
    parser.add_argument("--json", metavar="FILE", help="file to write the figures to")
    parser.add_argument(
        "--only", choices=("kgen", "keras", "torch", "compiled"), help=argparse.SUPPRESS
    )
    args = parser.parse_args(argv)
    if args.only:
        sides = {"kgen": run_kgen, "keras": run_keras, "torch": run_torch}
        sides["compiled"] = functools.partial(run_torch, compiled=True)
        print(sides[args.only](args.epochs))
        return
    interpreters = {"kgen": sys.executable, "keras": sys.executable}
    if args.torch_python:
        interpreters["torch"] = interpreters["compiled"] = args.torch_python
    rates = {name: [] for name in interpreters}
    for i in range(args.rounds):
        for name, python in interpreters.items():
            command = [python, __file__, "--only", name, "--epochs", str(args.epochs)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rates[name].append(float(output.split()[-1]))
        print(f"round {i + 1}: " + ", ".join(f"{n} {r[-1]:,.0f}" for n, r in rates.items()))
    for name, values in rates.items():
        print(f"{name}: {statistics.median(values):,.0f} images/s")
    found = {"rates": rates}
    for name in list(rates)[1:]:
        ratios = [a / b for a, b in zip(rates["kgen"], rates[name])]
        median, least, most = statistics.median(ratios), min(ratios), max(ratios)
        found[name] = {"median": median, "min": least, "max": most}
        print(f"kgen / {name}: {median:.2f} ({least:.2f} to {most:.2f})")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
