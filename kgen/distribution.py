"""Choice of the distribution strategy, the numeric precision and XLA for the devices at hand.

    with kgen.distribution.strategy().scope():
        model = ...
        model.compile(...)
    model.fit(...)

is all that a script needs for one GPU, several GPUs, or several machines. Under a strategy every
replica draws its own noise and times (`kgen.tensors.SeedStream`), the gradients of all replicas are
summed and the loss is divided by their number, so that training on a global batch does not depend
on the number of devices.

References:
  https://www.tensorflow.org/guide/distributed_training
  TF_CONFIG: https://www.tensorflow.org/guide/distributed_training#TF_CONFIG
"""

import contextlib
import contextvars
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import tensorflow as tf

_FUSED = contextvars.ContextVar("fused", default=False)


def strategy() -> tf.distribute.Strategy:
    """Returns the distribution strategy for the available devices.

    That is `MultiWorkerMirroredStrategy` if the environment variable `TF_CONFIG` names more than
    one worker (call this before any other use of TensorFlow then); `MirroredStrategy` with more
    than one GPU or, without GPUs, more than one logical CPU; else the default strategy.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: if `TF_CONFIG` is not JSON.

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


def is_chief() -> bool:
    """Returns whether this process is the one that writes checkpoints, logs and samples.

    Without `TF_CONFIG`, and with a single worker, it is.

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


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether a strategy spans several processes.

    Example:
        >>> several_workers(tf.distribute.get_strategy())
        False
    """
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and len(_workers()) > 1


def default_precision() -> Literal["mixed_bfloat16", "float32"]:
    """Returns the Keras dtype policy for the hardware: bfloat16 where it is computed natively.

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


def default_jit(dense: bool = False) -> bool:
    """Returns whether XLA makes training faster: on GPUs, and for dense networks on CPUs.

    On CPUs XLA slows convolutions down. Under a strategy of several devices it is off, since XLA
    compiles a step for a single device.

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
def fused(allowed: bool = True) -> Iterator[None]:
    """Allows XLA to fuse parts of graphs that are traced in this context, where CPUs gain from it.

    These parts are the normalisations of large pictures; each new batch size costs about a second
    of compilation. Exports are traced without fusion, as not every TensorFlow server has XLA.

    Args:
        allowed: whether fusion is allowed.

    Example:
        >>> with fused():
        ...     fuses()  # no graph is being traced
        False
    """
    token = _FUSED.set(allowed)
    try:
        yield
    finally:
        _FUSED.reset(token)


def fuses() -> bool:
    """Returns whether XLA fusion is active.

    It is inside of `fused()`, while a graph is traced, for one device and without accelerators.

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


def _config() -> dict[str, Any]:
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"TF_CONFIG must be JSON. Received: TF_CONFIG={text!r}.") from error


def _workers() -> list[str]:
    cluster = _config().get("cluster", {})
    return [*cluster.get("chief", []), *cluster.get("worker", [])]
