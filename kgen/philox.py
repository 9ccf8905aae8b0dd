"""The random generator Philox 4x32-10 for many seeds at once, in tensor operations.

TensorFlow's stateless random functions take one seed. Here every example of a batch has its own
seed, and the bits of all examples are computed together; they equal those that TensorFlow draws for
each seed. A block of four 32-bit words is a function of a key (two words) and a counter (four
words), which are derived from the seed.

References:
  Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3",
  https://doi.org/10.1145/2063384.2063405.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # increments of the key in each round
ROUNDS = 10
WORD = 0xFFFFFFFF
SEEDS_KEY = 0x3EC8F720, 0x02461E29  # TensorFlow's key for deriving keys from seeds


def philox(
    counter: Sequence[tf.Tensor], key: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a block of four random words for each counter.

    Args:
        counter: four uint64 tensors below 2^32, of shapes that broadcast.
        key: two such tensors.

    Returns:
        Four uint64 tensors below 2^32.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for i in range(ROUNDS):
        product_0, product_1 = _word(MULTIPLIERS[0]) * c0, _word(MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            _high(product_1) ^ c1 ^ _low(k0 + _word(i * WEYL[0] & WORD)),
            _low(product_1),
            _high(product_0) ^ c3 ^ _low(k1 + _word(i * WEYL[1] & WORD)),
            _low(product_0),
        )
    return c0, c1, c2, c3


def words(seeds: tf.Tensor, num: int | tf.Tensor) -> tf.Tensor:
    """Returns the first random words of each seed, as `tf.random.stateless_uniform` draws them.

    Args:
        seeds: int32 `[B, 2]`.
        num: number of words.

    Returns:
        A uint64 tensor `[B, num]` below 2^32.
    """
    return _words(seeds, num)


@tf.function(
    input_signature=[tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([], tf.int32)],
    autograph=False,
)
def _words(seeds: tf.Tensor, num: int | tf.Tensor) -> tf.Tensor:
    """Implements `words`; a separate `tf.function`, so that its operations are traced once."""
    seed_0, seed_1 = (tf.cast(tf.cast(v, tf.int64), tf.uint64) for v in tf.unstack(seeds, axis=1))
    scrambled = philox(
        (_low(seed_0), _high(seed_0), _low(seed_1), _high(seed_1)),
        tuple(_word(value) for value in SEEDS_KEY),
    )
    k0, k1, c2, c3 = (word[:, None] for word in scrambled)
    blocks = tf.cast(tf.range((num + 3) // 4), tf.uint64)[None]
    found = philox((blocks, tf.zeros_like(blocks), c2, c3), (k0, k1))
    return tf.reshape(tf.stack(found, axis=-1), [tf.shape(seeds)[0], -1])[:, :num]


def integers(seeds: tf.Tensor, num: int | tf.Tensor) -> tf.Tensor:
    """Returns uniform random integers for each seed, int32 `[B, num]`, over the whole range."""
    return tf.bitcast(tf.cast(words(seeds, num), tf.uint32), tf.int32)


def normals(seeds: tf.Tensor, num: int | tf.Tensor) -> tf.Tensor:
    """Returns standard normal noise for each seed, as `tf.random.stateless_normal` draws it.

    Args:
        seeds: int32 `[B, 2]`.
        num: number of values per seed.

    Returns:
        A float32 tensor `[B, num]`.
    """
    bits = tf.reshape(words(seeds, 2 * ((num + 1) // 2)), [tf.shape(seeds)[0], -1, 2])
    unit = tf.cast(bits & _word(2**23 - 1), tf.float32) / 2**23
    radius = tf.sqrt(-2 * tf.math.log(tf.maximum(unit[..., 0], 1e-7)))
    angle = 2 * np.pi * unit[..., 1]
    pairs = tf.stack([radius * tf.sin(angle), radius * tf.cos(angle)], axis=-1)
    return tf.reshape(pairs, [tf.shape(seeds)[0], -1])[:, :num]


def _word(value: int) -> tf.Tensor:
    return tf.constant(np.uint64(value))


def _low(value: tf.Tensor) -> tf.Tensor:
    return value & _word(WORD)


def _high(value: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(value, _word(32))
