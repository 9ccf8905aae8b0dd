"""Small tensor helpers: broadcasting, sums over an event, derivatives, noise from explicit seeds.

Every random number in kgen is a pure function of a seed, an int32 pair. Seeds are derived from one
another (`split`, `fold_in`), never from hidden state; the only state is the counter of a
`SeedStream`, which a model owns and saves. Under `tf.distribute` all replicas run the same step
with the same counter, so a `SeedStream` folds the replica's id into what it hands out: replicas
draw different noise, and one integer still reproduces the whole run.

References:
  Counter-based generators: Salmon et al. (2011), https://doi.org/10.1145/2063384.2063405.
"""

import hashlib
import random

import keras
import numpy as np
import tensorflow as tf

from kgen import philox
from kgen.serialization import serializable

_ALGORITHM = "philox"  # the default would depend on the device and on XLA


def expand_to(t, like):
    """Reshapes `t`, a scalar or `[B]`, so that it broadcasts against `like`, `[B, ...]`.

    Example:
        >>> expand_to(tf.zeros([5]), tf.zeros([5, 8, 8, 3])).shape
        TensorShape([5, 1, 1, 1])
    """
    t = tf.convert_to_tensor(t)
    if t.shape.rank == 0:
        return t
    return tf.reshape(t, tf.concat([tf.shape(t), tf.ones([like.shape.rank - 1], tf.int32)], 0))


def sum_event(x):
    """Sums over every axis but the first: `[B, ...]` -> `[B]`.

    Example:
        >>> sum_event(tf.ones([2, 4, 3])).numpy().tolist()
        [12.0, 12.0]
    """
    return tf.reduce_sum(tf.reshape(x, [tf.shape(x)[0], -1]), axis=1)


def derivative(fn, t):
    """Derivative of an elementwise function `fn` at `t`, of the shape of `t`.

    Example:
        >>> derivative(tf.square, tf.constant([1.0, 3.0])).numpy().tolist()
        [2.0, 6.0]
    """
    t = tf.convert_to_tensor(t)
    with tf.GradientTape() as tape:
        tape.watch(t)
        y = fn(t)
    return tape.gradient(y, t, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def fingerprint(arrays):
    """The sha256 of the values of arrays or variables, in their order.

    Example:
        >>> fingerprint([np.zeros(2)]) == fingerprint([np.zeros(1), np.zeros(1)])
        True
    """
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def as_seed(seed):
    """Makes an int32 pair of an integer, a pair, or None (a seed from Python's `random`).

    Args:
        seed: None, which `keras.utils.set_random_seed` decides; an integer; or two integers (also
            as a tensor).

    Returns:
        A tensor of shape `[2]`, int32.

    Raises:
        ValueError: if `seed` is none of these.
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


def split(seed, num):
    """Derives a list of `num` independent seeds from one."""
    return tf.unstack(tf.random.split(seed, num, alg=_ALGORITHM), num)


def fold_in(seed, data):
    """Derives the seed that belongs to the integer `data`, for example a step or a replica.

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


def normal(shape, seed, dtype="float32"):
    """Standard normal noise of `shape`, a function of `seed` alone.

    Args:
        shape: of the noise.
        seed: an int32 pair; or one for each example, `[B, 2]`: the noise of an example then
            depends on its own seed alone, whatever the other examples are.
        dtype: a floating type.

    Returns:
        A tensor of that shape.

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


def uniform(shape, seed, minval=0.0, maxval=1.0, dtype="float32"):
    """Uniform noise in `[minval, maxval)` of `shape`, a function of `seed` alone."""
    return tf.random.stateless_uniform(shape, seed, minval, maxval, dtype=dtype, alg=_ALGORITHM)


@serializable
class SeedStream(keras.layers.Layer):
    """A stream of seeds: the one piece of random state a model has, saved with its weights.

    Args:
        seed: None or an integer; the same integer gives the same stream.

    Example:
        >>> stream = SeedStream(seed=1)
        >>> bool(tf.reduce_all(stream.next() == stream.next()))
        False
    """

    def __init__(self, seed=None, **kwargs):
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

    def next(self):
        """Returns a new int32 pair, another one on every replica, and advances the stream."""
        seed = fold_in(self.root.value, self.count.value)
        self.count.assign(self.count + 1)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            seed = fold_in(seed, replica.replica_id_in_sync_group)
        return seed
