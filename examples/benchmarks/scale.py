"""Measure how time and memory of a training step grow with batch, picture, devices and levels.

    python examples/benchmarks/scale.py --output runs/scale.png

    batch        a U-Net (2.4 million weights) on 8 to 256 pictures of 32 x 32
    picture      the same U-Net on one picture of 32 x 32 to 512 x 512
    recompute    both again, with activations computed again in the backward pass
    devices      the same step on 32 pictures, on 1, 2 and 4 virtual devices that share the cores
    levels       a dense hierarchical VAE of 2 to 40 levels on 100 pictures of 28 x 28

Each point is a process of its own, for its peak memory beyond that of the process before the first
step; several hundred megabytes of it are TensorFlow's for its graph. Time is processor time per
step, the median of `--steps` steps after the first two, so that other programs matter little.
Several rounds of all points show the spread.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

POINTS = {
    "batch": [{"batch": batch} for batch in (8, 16, 32, 64, 128, 256)],
    "picture": [{"batch": 1, "size": size} for size in (32, 64, 128, 256, 512)],
    "devices": [{"batch": 32, "devices": devices} for devices in (1, 2, 4)],
    "levels": [{"batch": 100, "levels": levels} for levels in (2, 5, 10, 20, 40)],
}
LABELS = {
    "batch": ("batch", "pictures in a batch"),
    "picture": ("size", "side of the picture"),
    "devices": ("devices", "virtual devices"),
    "levels": ("levels", "levels of the HVAE"),
}


def build(point):
    """Returns the compiled model of a point, and one batch of its data."""
    import keras
    import tensorflow as tf

    import kgen
    from kgen.networks import UNet, dense_hierarchy

    if "levels" in point:
        encoder, parts, decoder = dense_hierarchy(
            (28, 28, 1), (8,) * point["levels"], 1, hidden=(64,)
        )
        levels = [
            kgen.GaussianLevel(prior, posterior, merge, state_shape=shape)
            for prior, posterior, merge, shape in parts
        ]
        model = kgen.HVAE(encoder, levels, decoder, seed=0)
        model.compile(keras.optimizers.Adam(1e-4))
        return model, np.zeros((point["batch"], 28, 28, 1), "float32")
    devices = point.get("devices", 1)
    strategy = tf.distribute.get_strategy()
    if devices > 1:
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])
    size = point.get("size", 32)
    with strategy.scope():
        network = UNet(
            (size, size, 3),
            channels=(32, 64, 96),
            blocks=2,
            attention=(False, False, False),
            middle_attention=False,
        )
        process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
        model = kgen.DiffusionModel(network, process, seed=0)
        model.compile(keras.optimizers.Adam(1e-4), recompute=point.get("recompute", False))
    return model, np.zeros((point["batch"], size, size, 3), "float32")


def measure(point, steps):
    """Returns seconds of processor time per step and megabytes, of a point in this process."""
    import keras
    import tensorflow as tf

    if point.get("devices", 1) > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        device = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [device] * point["devices"])
    model, x = build(point)
    times = []
    timer = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: times.append(time.process_time())
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = tf.data.Dataset.from_tensors(x).repeat(steps + 2)
    model.fit(data, verbose=0, callbacks=[timer])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = statistics.median(np.diff(times)[1:])
    return {"seconds": seconds, "megabytes": (peak - before) / 1024}


def draw(path, results):
    """Draws time and memory of every series."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(2, len(POINTS), figsize=(13, 5.5), layout="constrained")
    for column, (series, (key, label)) in enumerate(LABELS.items()):
        for recompute in (False, True):
            rows = [
                row
                for row in results
                if row["series"] == series and row["point"].get("recompute", False) == recompute
            ]
            if not rows:
                continue
            x = [row["point"].get(key, 1) for row in rows]
            for axis, name in zip(axes[:, column], ("seconds", "megabytes")):
                values = np.array([row[name] for row in rows])
                axis.plot(
                    x, np.median(values, 1), marker="o", label="recompute" if recompute else "plain"
                )
                axis.fill_between(x, values.min(1), values.max(1), alpha=0.3)
                axis.set(xscale="log", yscale="log", xlabel=label, ylabel=f"{name} of a step")
                axis.set_xticks(x, [str(value) for value in x], minor=False)
                axis.minorticks_off()
                axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.legend()
    figure.savefig(path, dpi=100)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/scale.png"))
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all points (default 2)")
    parser.add_argument("--steps", type=int, default=5, help="steps of each point (default 5)")
    parser.add_argument(
        "--series", nargs="+", choices=POINTS, default=list(POINTS), help="default: all"
    )
    parser.add_argument("--limit", type=int, help="largest batch, picture and number of levels")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.point is not None:
        print(json.dumps(measure(args.point, args.steps)))
        return
    results = []
    for series in args.series:
        points = POINTS[series]
        if series in ("batch", "picture"):
            points = [*points, *({**point, "recompute": True} for point in points)]
        key = LABELS[series][0]
        if args.limit:
            points = [point for point in points if point[key] <= args.limit]
        results += [
            {"series": series, "point": point, "seconds": [], "megabytes": []} for point in points
        ]
    for _ in range(args.rounds):
        for row in results:
            command = [sys.executable, __file__, "--steps", str(args.steps)]
            command += ["--point", json.dumps(row["point"])]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures = json.loads(run.stdout.splitlines()[-1])
            for name, value in figures.items():
                row[name].append(value)
            print(row["series"], row["point"], figures, flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw(args.output, results)
    args.output.with_suffix(".json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
