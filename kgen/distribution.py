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

import tensorflow as tf

_FUSED = contextvars.ContextVar("fused", default=False)


def strategy():
    """The strategy for what there is: several machines, several devices, or one.

    With `TF_CONFIG` in the environment and more than one worker in it, this is
    `MultiWorkerMirroredStrategy`, and has to come before any other use of TensorFlow; with more
    than one GPU (or, without GPUs, more than one logical CPU) `MirroredStrategy`; else the default.

    Returns:
        A `tf.distribute.Strategy`.

    Example:
        >>> strategy().num_replicas_in_sync >= 1
        True
    """
    if len(_workers()) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
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
    task = _config().get("task", {})
    if len(_workers()) < 2:
        return True
    return task.get("type") == "chief" or (
        task.get("type") == "worker"
        and task.get("index") == 0
        and not _config()["cluster"].get("chief")
    )


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


def _config():
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"TF_CONFIG must be JSON. Received: TF_CONFIG={text!r}.") from error


def _workers():
    cluster = _config().get("cluster", {})
    return [*cluster.get("chief", []), *cluster.get("worker", [])]
