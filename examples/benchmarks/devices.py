"""Measure the cost of distributing a training step: several virtual devices against one.

    python examples/benchmarks/devices.py
    python examples/benchmarks/devices.py --devices 4

A diffusion model of Fashion-MNIST makes steps on the same global batch, without a strategy and
under `MirroredStrategy` with virtual CPU devices. All of them share the cores of this machine, so
no configuration can be faster than one device; the difference is the cost of splitting the batch,
summing the gradients and updating several copies. On GPUs each device has its own cores.

The configurations alternate every few steps, since other programs may be running, and each block of
steps is compared with the adjacent block of one device. The input time of a step is measured by
reading batches of the same data without training.
"""

import argparse
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import kgen
from kgen.data import grey


class StepTimer(keras.callbacks.Callback):
    """A callback that measures the seconds of each step of the last `fit`."""

    def on_train_begin(self, logs=None):
        """Discards the measurements of the previous `fit`."""
        self.seconds, self.last = [], None

    def on_train_batch_end(self, batch, logs=None):
        """Measures the time since the end of the previous step, including the input."""
        now = time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now


class Contestant:
    """The model on a number of devices."""

    def __init__(self, num, args):
        devices = [f"CPU:{i}" for i in range(num)]
        self.strategy = (
            tf.distribute.get_strategy() if num == 1 else tf.distribute.MirroredStrategy(devices)
        )
        data = grey.load("fashion_mnist", batch_size=args.batch_size, values="signed", seed=0)
        self.data = data.repeat()
        self.steps = args.steps
        keras.utils.set_random_seed(0)
        with self.strategy.scope():
            network = kgen.networks.UNet(
                (28, 28, 1), channels=args.channels, blocks=1, attention=(False, True), patch=2
            )
            process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.LinearLogSNR(13.3, -8.0))
            self.model = kgen.DiffusionModel(network, process, ema_decay=0.999, seed=0)
            self.model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
        self.timer = StepTimer()

    def step_seconds(self):
        """Returns the median time of a step in one block, in seconds."""
        self.model.fit(self.data, steps_per_epoch=self.steps, callbacks=[self.timer], verbose=0)
        return statistics.median(self.timer.seconds)

    def input_seconds(self):
        """Returns the median time of reading a batch for the devices, in seconds."""
        iterator = iter(self.strategy.experimental_distribute_dataset(self.data))
        next(iterator)
        seconds = []
        for _ in range(self.steps):
            start = time.perf_counter()
            next(iterator)
            seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=2, help="number of virtual devices")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--batch-size", type=int, default=128, help="of all devices together")
    parser.add_argument("--steps", type=int, default=10, help="number of steps of a block")
    parser.add_argument("--turns", type=int, default=9)
    args = parser.parse_args(argv)
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * args.devices
    tf.config.set_logical_device_configuration(cpu, logical)

    contestants = {num: Contestant(num, args) for num in (1, args.devices)}
    for contestant in contestants.values():
        contestant.step_seconds()  # builds the graph
    steps, inputs = ({num: [] for num in contestants} for _ in "12")
    for turn in range(args.turns):
        for num in list(contestants)[:: 1 if turn % 2 else -1]:
            steps[num].append(contestants[num].step_seconds())
            inputs[num].append(contestants[num].input_seconds())
    one = np.array(steps[1])
    print("| devices | ms a step | against one, median (quartiles) | input, share of a step |")
    print("| --- | --- | --- | --- |")
    for num in contestants:
        low, ratio, high = np.percentile(np.array(steps[num]) / one, [25, 50, 75])
        share = np.median(np.array(inputs[num]) / np.array(steps[num]))
        print(
            f"| {num} | {1000 * np.median(steps[num]):.1f} "
            f"| {ratio:.2f} ({low:.2f} to {high:.2f}) | {share:.1%} |"
        )


if __name__ == "__main__":
    main()
