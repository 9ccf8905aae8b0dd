"""Tensor helpers: broadcasting, sums over an event, derivatives, and noise from explicit seeds.

Every random number in kgen is a pure function of a seed, an int32 pair. Seeds are derived from one
another (`split`, `fold_in`), never from hidden state; the only state is the counter of a
`SeedStream`, which a model owns and saves. Under `tf.distribute` all replicas run the same step
with the same counter, so a `SeedStream` folds the replica's id into each seed it returns: replicas
draw different noise, and one integer still reproduces the whole run.

References:
  Counter-based generators: Salmon et al. (2011), https://doi.org/10.1145/2063384.2063405.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen import philox
from kgen.serialization import serializable
from kgen.types import Seed, TensorLike

_ALGORITHM = "philox"  # the default depends on the device and on XLA


def expand_to(t: TensorLike, like: tf.Tensor) -> tf.Tensor:
    """Reshapes `t`, a scalar or `[B]`, so that it broadcasts against `like`, `[B, ...]`.

    A tensor that already has as many axes as `like`, `[B, 1, ...]`, is returned unchanged.

    Example:
        >>> expand_to(tf.zeros([5]), tf.zeros([5, 8, 8, 3])).shape
        TensorShape([5, 1, 1, 1])
    """
    t = tf.convert_to_tensor(t)
    if t.shape.rank == 0 or t.shape.rank == like.shape.rank:
        return t
    return tf.reshape(t, tf.concat([tf.shape(t), tf.ones([like.shape.rank - 1], tf.int32)], 0))


def sum_event(x: TensorLike) -> tf.Tensor:
    """Sums over every axis but the first: `[B, ...]` -> `[B]`.

    Example:
        >>> sum_event(tf.ones([2, 4, 3])).numpy().tolist()
        [12.0, 12.0]
    """
    return tf.reduce_sum(tf.reshape(x, [tf.shape(x)[0], -1]), axis=1)


def sum_over_replicas(values: Any) -> Any:
    """Returns the sum over all devices of a tensor, or of each tensor in a list.

    It is called on a replica.

    Example:
        >>> float(sum_over_replicas(tf.constant(2.0)))  # there is one device here
        2.0
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return values
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, values)


def batch_mean(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean of `[B, ...]` over the global batch of all devices.

    The sum of its gradients over the devices is the gradient of the global mean.

    Example:
        >>> batch_mean(tf.constant([[1.0, 4.0], [3.0, 0.0]])).numpy().tolist()
        [2.0, 2.0]
    """
    num = sum_over_replicas(tf.cast(tf.shape(values)[0], values.dtype))
    return sum_over_replicas(tf.reduce_sum(values, axis=0)) / tf.maximum(num, 1)


def derivative(fn: Callable[[tf.Tensor], tf.Tensor], t: TensorLike) -> tf.Tensor:
    """Returns the derivative of an elementwise function `fn` at `t`, of the shape of `t`.

    Example:
        >>> derivative(tf.square, tf.constant([1.0, 3.0])).numpy().tolist()
        [2.0, 6.0]
    """
    t = tf.convert_to_tensor(t)
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = fn(t)
    return tape.gradient(y, t, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def fingerprint(arrays: Iterable) -> str:
    """Returns the sha256 digest of the values of arrays or variables, in the given order.

    Example:
        >>> fingerprint([np.zeros(2)]) == fingerprint([np.zeros(1), np.zeros(1)])
        True
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def as_seed(seed: Seed) -> tf.Tensor:
    """Converts a seed to an int32 pair.

    Args:
        seed: an integer; two integers, also as a tensor; or None, for a seed from Python's
            `random`, which `keras.utils.set_random_seed` controls.

    Returns:
        A tensor of shape `[2]`, int32.

    Raises:
        ValueError: if `seed` is something else.
    """
    if seed is None:
        return tf.constant([random.getrandbits(31), random.getrandbits(31)], tf.int32)
    if isinstance(seed, (int, np.integer)):
        low, high = int(seed) & 0xFFFFFFFF, (int(seed) >> 32) & 0xFFFFFFFF
        return tf.constant(np.array([low, high], np.uint32).view(np.int32))
    try:
        pair = tf.convert_to_tensor(seed)
    except (TypeError, ValueError):
        pair = None
    if pair is None or pair.shape.as_list() != [2] or not pair.dtype.is_integer:
        raise ValueError(
            f"`seed` must be None, an integer or two integers. Received: seed={seed!r}."
        )
    return tf.cast(pair, tf.int32)


def split(seed: TensorLike, num: int) -> list[tf.Tensor]:
    """Derives a list of `num` independent seeds from one."""
    return tf.unstack(tf.random.split(seed, num, alg=_ALGORITHM), num)


def fold_in(seed: TensorLike, data: TensorLike) -> tf.Tensor:
    """Derives the seed for an integer `data`, such as the number of a step or of a replica.

    Args:
        seed: an int32 pair, or one for each example, `[B, 2]`.
        data: an integer; with several seeds also one for each, `[B]`.

    Returns:
        A tensor of the shape of `seed`.
    """
    if tf.convert_to_tensor(seed).shape.rank == 1:
        return tf.random.fold_in(seed, data, alg=_ALGORITHM)
    data = tf.broadcast_to(tf.cast(data, tf.int32), tf.shape(seed)[:1])
    return tf.stack([philox.integers(seed, 1)[:, 0], data], axis=1)


def normal(shape: TensorLike, seed: TensorLike, dtype: str | tf.DType = "float32") -> tf.Tensor:
    """Draws standard normal noise, a function of `seed` alone.

    Args:
        shape: shape of the noise.
        seed: an int32 pair; or one pair per example, `[B, 2]`, so that the noise of an example
            does not depend on the other examples of its batch.
        dtype: a floating-point type.

    Returns:
        A tensor of shape `shape`.

    Example:
        >>> seeds = tf.constant([[1, 0], [2, 0]])
        >>> bool(tf.reduce_all(normal([2, 3], seeds)[1] == normal([3], seeds[1])))
        True
    """
    seed = tf.convert_to_tensor(seed)
    if seed.shape.rank == 1:
        return tf.random.stateless_normal(shape, seed, dtype=dtype, alg=_ALGORITHM)
    noise = philox.normals(seed, tf.reduce_prod(shape[1:]))
    return tf.cast(tf.reshape(noise, shape), dtype)


def uniform(
    shape: TensorLike,
    seed: TensorLike,
    minval: TensorLike = 0.0,
    maxval: TensorLike = 1.0,
    dtype: str | tf.DType = "float32",
) -> tf.Tensor:
    """Draws uniform noise in `[minval, maxval)` of shape `shape`, a function of `seed` alone."""
    return tf.random.stateless_uniform(shape, seed, minval, maxval, dtype=dtype, alg=_ALGORITHM)


@serializable
class SeedStream(keras.layers.Layer):
    """A stream of seeds: the only random state of a model, saved with its weights.

    Args:
        seed: an integer, which determines the stream, or None for a random one.

    Example:
        >>> stream = SeedStream(seed=1)
        >>> bool(tf.reduce_all(stream.next() == stream.next()))
        False
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        self.root = self.add_weight(
            shape=(2,), dtype="int32", trainable=False, name="root", initializer="zeros"
        )
        self.count = self.add_weight(
            shape=(),
            dtype="int32",
            trainable=False,
            name="count",
            initializer="zeros",
            aggregation="only_first_replica",
        )
        self.root.assign(as_seed(seed))
        self.built = True

    def next(self) -> tf.Tensor:
        """Returns a new int32 pair, different on every replica, and advances the stream."""
        seed = fold_in(self.root.value, self.count.value)
        self.count.assign(self.count + 1)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            seed = fold_in(seed, replica.replica_id_in_sync_group)
        return seed
