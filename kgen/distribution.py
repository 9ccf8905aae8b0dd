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
import functools
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator
from typing import Any, Literal

import tensorflow as tf

_FUSED = contextvars.ContextVar("fused", default=False)
_TRAINING = contextvars.ContextVar("training", default=False)


def strategy() -> tf.distribute.Strategy:
    """Returns the distribution strategy for the available devices.

    That is `MultiWorkerMirroredStrategy` if the environment variable `TF_CONFIG` names more than
    one worker. In that case, call this function before any other use of TensorFlow; it waits two
    minutes for the other workers. It is `MirroredStrategy` with more than one GPU or, without GPUs,
    more than one logical CPU; else the default strategy.

    Returns:
        A `tf.distribute.Strategy`; the same one at every call, since two instances of
        `MirroredStrategy` over the same devices give their collective operations the same keys.

    Raises:
        ValueError: if `TF_CONFIG` does not have the form that TensorFlow reads.
        RuntimeError: or another error of TensorFlow, if a worker does not start; a note in the
            error names the worker.

    Example:
        >>> strategy().num_replicas_in_sync >= 1
        True
    """
    if len(_workers()) > 1:
        return _strategy_of_workers()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) > 1:
        return _mirrored(tuple(device.name for device in devices))
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    return tf.distribute.MirroredStrategy(list(devices))


def is_chief() -> bool:
    """Returns whether this process is the one that writes checkpoints, logs and samples.

    Without `TF_CONFIG`, and with a single worker, it is.

    Example:
        >>> is_chief()
        True
    """
    if len(_workers()) < 2:
        return True
    return _task() == next(iter(_addresses()))  # a "chief", or else the first "worker"


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
def fused(allowed: bool = True, *, training: bool = False) -> Iterator[None]:
    """Allows layers that are traced in this context to use forms that are faster on CPUs.

    XLA compiles normalisations of large pictures; each new batch size costs about a second of
    compilation. In training it compiles those of smaller pictures too, and the gates of
    feed-forward layers, and some convolutions have another gradient (`kgen.networks.conv2d`).
    Exports are traced without these forms, as not every TensorFlow server has XLA.

    Args:
        allowed: whether these forms are allowed.
        training: whether a training step is traced, which will run many times.

    Example:
        >>> with fused():
        ...     fuses()  # no graph is being traced
        False
    """
    tokens = _FUSED.set(allowed), _TRAINING.set(training)
    try:
        yield
    finally:
        _FUSED.reset(tokens[0])
        _TRAINING.reset(tokens[1])


def fuses(training: bool = False) -> bool:
    """Returns whether layers use the forms that are faster on CPUs.

    They do inside of `fused()`, while a graph is traced, for one device and without accelerators.

    Args:
        training: whether to ask for the forms of training.

    Example:
        >>> fuses()
        False
    """
    return (
        _FUSED.get()
        and (_TRAINING.get() or not training)
        and not tf.executing_eagerly()
        and tf.distribute.get_strategy().num_replicas_in_sync == 1
        and _only_cpus()
    )


@contextlib.contextmanager
def without_graph_optimizers() -> Iterator[None]:
    """Lets a `tf.function` that is first called in this context run without graph optimisation.

    On CPUs TensorFlow's graph optimisers take a third of the time of the first call of `generate`,
    and later calls are not faster for it. On accelerators they choose the layout of convolutions:
    there, and while a graph is traced, the context has no effect.

    Example:
        >>> with without_graph_optimizers():
        ...     print(tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"])
        True
    """
    off = "disable_meta_optimizer"
    if (
        not tf.executing_eagerly()
        or not _only_cpus()
        or tf.config.optimizer.get_experimental_options().get(off)
    ):
        yield
        return
    tf.config.optimizer.set_experimental_options({off: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({off: False})


def _only_cpus() -> bool:
    return all(device.device_type == "CPU" for device in tf.config.get_visible_devices())


def _strategy_of_workers() -> tf.distribute.Strategy:
    """Joins the other workers, and reports for which ones TensorFlow waits."""
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


def _answers(address: str) -> bool:
    """Returns whether a process listens at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except (OSError, ValueError):
        return False
    return True


def _called(task: tuple[str, int]) -> str:
    kind, index = task
    return f"{kind} {index}"


def _config() -> dict[str, Any]:
    """Reads and validates TF_CONFIG.

    Raises:
        ValueError: if it does not have the form that TensorFlow reads.
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


def _problem_of(config: Any) -> str | None:
    """Returns what a TF_CONFIG must have but lacks, for a message, or None."""
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


def _addresses() -> dict[tuple[str, int], str]:
    """Returns the addresses of all workers by (type, index)."""
    cluster = _config().get("cluster", {})
    kinds = ("chief", "worker")
    return {(kind, i): at for kind in kinds for i, at in enumerate(cluster.get(kind, []))}


def _task() -> tuple[str | None, int | None]:
    """Returns the type and index of this process."""
    task = _config().get("task", {})
    return task.get("type"), task.get("index")


def _workers() -> list[str]:
    return list(_addresses().values())
