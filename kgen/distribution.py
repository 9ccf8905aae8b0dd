"""Devices: which strategy, which precision, whether XLA.

    with kgen.distribution.strategy().scope():
        model = ...
        model.compile(...)
    model.fit(...)

is all that a script needs for one GPU, several, or several machines. Under a strategy every replica
draws its own noise and times (`kgen.tensors.SeedStream`), the gradients of all are summed and the
loss is divided by their number, so a global batch means the same on any number of devices.

References:
  https://www.tensorflow.org/guide/distributed_training
  TF_CONFIG: https://www.tensorflow.org/guide/distributed_training#TF_CONFIG
"""

import contextlib
import contextvars
import json
import os
import pathlib
import socket
import sys

import tensorflow as tf

_FUSED = contextvars.ContextVar("fused", default=False)


def strategy():
    """The strategy for what there is: several machines, several devices, or one.

    With `TF_CONFIG` in the environment and more than one worker in it, this is
    `MultiWorkerMirroredStrategy`, which waits for all of them, for two minutes; it has to come
    before any other use of TensorFlow. With more
    than one GPU (or, without GPUs, more than one logical CPU) `MirroredStrategy`; else the default.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: if `TF_CONFIG` is not as TensorFlow reads it.
        RuntimeError: or an error of TensorFlow, if a worker does not come; a note names it.

    Example:
        >>> strategy().num_replicas_in_sync >= 1
        True
    """
    if len(_workers()) > 1:
        return _strategy_of_workers()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def is_chief():
    """Whether this process writes checkpoints, logs and samples: always, unless there are others.

    Example:
        >>> is_chief()
        True
    """
    if len(_workers()) < 2:
        return True
    return _task() == next(iter(_addresses()))  # a "chief", or else the first "worker"


def several_workers(strategy):
    """Whether a strategy runs over several processes.

    Example:
        >>> several_workers(tf.distribute.get_strategy())
        False
    """
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and len(_workers()) > 1


def default_precision():
    """The Keras policy the hardware is good at: bfloat16 on GPUs and CPUs that compute with it.

    Returns:
        `"mixed_bfloat16"` or `"float32"`.

    Example:
        >>> default_precision() in ("float32", "mixed_bfloat16")
        True
    """
    gpus = tf.config.list_physical_devices("GPU")
    capable = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) >= (8, 0)
        for gpu in gpus
    ]
    if not gpus:
        cpu = pathlib.Path("/proc/cpuinfo")
        flags = cpu.read_text().split() if cpu.exists() else []
        capable = ["avx512_bf16" in flags or "amx_bf16" in flags]
    return "mixed_bfloat16" if all(capable) else "float32"


def default_jit(dense=False):
    """Whether XLA pays: on GPUs, and on CPUs for dense networks; it slows convolutions there.

    Under a strategy of several devices it is off: XLA compiles a step for one.

    Args:
        dense: whether the network has no convolutions.

    Returns:
        A value for `compile(jit_compile=...)`.

    Example:
        >>> default_jit(dense=True)
        True
    """
    if tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return False
    return dense or bool(tf.config.list_physical_devices("GPU"))


@contextlib.contextmanager
def fused(allowed=True):
    """Lets XLA compile the parts of a graph traced inside for which that pays on CPUs.

    These are the normalisations of large pictures; the price is a second for every new size of a
    batch. An export is traced without: not every server of TensorFlow has XLA.

    Example:
        >>> with fused():
        ...     fuses()  # there is no graph here
        False
    """
    token = _FUSED.set(allowed)
    try:
        yield
    finally:
        _FUSED.reset(token)


def fuses():
    """Whether it is so here: inside `fused()`, in a graph, for one device, on CPUs alone.

    Example:
        >>> fuses()
        False
    """
    return (
        _FUSED.get()
        and not tf.executing_eagerly()
        and tf.distribute.get_strategy().num_replicas_in_sync == 1
        and all(device.device_type == "CPU" for device in tf.config.get_visible_devices())
    )


def _strategy_of_workers():
    """Joins the other workers, for whom TensorFlow waits without a word."""
    here = _task()
    others = [name for name in _addresses() if name != here]
    places = ", ".join(f"{_called(name)} at {_addresses()[name]}" for name in others)
    print(f"This is {_called(here)}. Waiting until all have started: {places}.", file=sys.stderr)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, tf.errors.OpError) as error:
        silent = [_called(name) for name in others if not _answers(_addresses()[name])]
        if silent:
            error.add_note(f"kgen: no answer from {', '.join(silent)} of TF_CONFIG.")
        raise


def _answers(address):
    """Whether something listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


def _called(task):
    kind, index = task
    return f"{kind} {index}"


def _config():
    """TF_CONFIG, checked.

    Raises:
        ValueError: if it is not as TensorFlow's guide says.
    """
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"TF_CONFIG must be JSON. Received: TF_CONFIG={text!r}.") from error
    problem = _problem_of(config)
    if problem:
        raise ValueError(f"TF_CONFIG must have {problem}. Received: TF_CONFIG={text!r}.")
    return config


def _problem_of(config):
    """What a TF_CONFIG must have and has not, or None."""
    if not isinstance(config, dict):
        return 'the form {"cluster": {"worker": ["host:port", ...]}, "task": {...}}'
    cluster, task = config.get("cluster", {}), config.get("task", {})
    lists = isinstance(cluster, dict) and all(isinstance(v, list) for v in cluster.values())
    if not lists or not all(isinstance(v, str) for several in cluster.values() for v in several):
        return 'a "cluster" of lists of addresses "host:port"'
    if len([*cluster.get("chief", []), *cluster.get("worker", [])]) < 2:
        return None
    kind, index = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    if not isinstance(kind, str) or (kind not in cluster and kind != "evaluator"):
        return f'a "type" of "task" that is one of the "cluster", {sorted(cluster)}'
    if not isinstance(index, int) or isinstance(index, bool):
        return 'an "index" of "task" that is an integer, without quotation marks'
    num = len(cluster.get(kind, []))
    if index < 0 or (kind in cluster and index >= num):
        return f'an "index" of "task" in 0..{num - 1}, as there are {num} of "{kind}"'
    return None


def _addresses():
    """The addresses of all workers by (type, index)."""
    cluster = _config().get("cluster", {})
    kinds = ("chief", "worker")
    return {(kind, i): at for kind in kinds for i, at in enumerate(cluster.get(kind, []))}


def _task():
    """The type and index of this process."""
    task = _config().get("task", {})
    return task.get("type"), task.get("index")


def _workers():
    return list(_addresses().values())
