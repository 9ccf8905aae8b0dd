"""Show where the time of a training step goes, by kind of operation.

    python examples/benchmarks/where_time_goes.py
    python examples/benchmarks/where_time_goes.py --precision float32 --batch-size 16

The step is that of `fit` for the shipped text-to-image model on precomputed latents, with Adam and
averaged weights, on one thread, so that the times of the operations add up to that of the step.
They are those of TensorFlow's profiler. The last line is the time of the convolutions and matrix
products alone, if each multiplied as fast as a product of two large matrices does here: what this
processor and library could reach at best.
"""

import argparse
import collections
import pathlib
import sys
import tempfile
import time

import turns

HERE = pathlib.Path(__file__).resolve()
STEPS = 5
OPTIMIZER = "Adam and the clipping of the gradient"
KINDS = {  # by the types of operations; the first that is part of it counts
    "convolutions": ("Conv2D",),
    "attention: scores, softmax, sums": ("BatchMatMul", "Softmax"),
    "other matrix products": ("MatMul",),
    "normalisations and gates, in compiled passes": ("Xla", "ExecuteAsyncOnStream"),
    "conversions between precisions": ("Cast",),
}
REST = "all others: layer normalisations, sums, copies, averaged weights"


def build(args, folder):
    """Returns the function of a training step, and a batch."""
    import keras
    import tensorflow as tf

    import kgen

    sys.path.insert(0, str(HERE.parents[1]))
    import text_to_image as example

    keras.utils.set_random_seed(0)
    policy = {"float32": "float32", "bfloat16": "mixed_bfloat16"}[args.precision]
    model = kgen.from_preset("text_to_image", dtype=policy).with_settings(ema_decay=0.999)
    model.compile(keras.optimizers.Adam(1e-4, global_clipnorm=1.0))
    batches = example.emoji_batches(args.batch_size).take(1)
    batch = next(iter(model.precompute(batches, folder, args.batch_size)))
    return tf.function(model.train_step), batch


def record(step, batch):
    """Returns the events of some steps: names and milliseconds of a step."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)
        with tf.profiler.experimental.Profile(folder, options):
            for _ in range(STEPS):
                step(batch)
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(pathlib.Path(folder).rglob("*.xplane.pb")).read_bytes())
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                yield plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e9 / STEPS


def kind_of(name):
    """Returns the kind of an event, or None if it is a part of another one."""
    scope, _, operation = name.rpartition(":")
    if name == "CpuExecutable::ExecuteAsyncOnStream":
        operation = "ExecuteAsyncOnStream"
    elif "::" in name or not scope or "__inference" in operation:
        return None
    if scope.startswith(("adam/", "clip_by", "global_norm")):
        return OPTIMIZER
    found = [k for k, types in KINDS.items() if any(part in operation for part in types)]
    return found[0] if found else REST


def fastest_product(dtype):
    """Returns the floating-point operations per second of a product of two large matrices."""
    import tensorflow as tf

    size, seconds = 2048, []
    a = tf.cast(tf.random.normal([size, size]), dtype)
    for _ in range(5):
        start = time.perf_counter()
        tf.matmul(a, a).numpy()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def floating_point_operations(graph):
    """Returns the number of floating-point operations of a graph's convolutions and products."""
    import tensorflow as tf

    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    counted = tf.compat.v1.profiler.profile(graph, options={**options, "output": "none"})
    return counted.total_float_ops


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--batch-size", type=turns.positive, default=64)
    args = parser.parse_args(argv)
    args.threads = 1
    turns.set_threads(args)
    with tempfile.TemporaryDirectory() as folder:
        step, batch = build(args, folder)
        for _ in range(3):
            step(batch)
        start = time.perf_counter()
        for _ in range(STEPS):
            step(batch)
        whole = 1e3 * (time.perf_counter() - start) / STEPS
        times = collections.Counter()
        for name, milliseconds in record(step, batch):
            if kind_of(name) is not None:
                times[kind_of(name)] += milliseconds
    print(f"| {args.precision}, batches of {args.batch_size}, one thread | ms | share |")
    print("| --- | --- | --- |")
    for kind in (*KINDS, OPTIMIZER, REST):
        print(f"| {kind} | {times[kind]:.0f} | {times[kind] / whole:.0%} |")
    print(f"| a step | {whole:.0f} | |")
    operations = floating_point_operations(step.get_concrete_function(batch).graph)
    least = 1e3 * operations / fastest_product(args.precision)
    print(
        f"| products and convolutions at the greatest speed | {least:.0f} | {least / whole:.0%} |"
    )


if __name__ == "__main__":
    main()
