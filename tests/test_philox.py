"""The generator for many seeds against published vectors, and against TensorFlow's own of one."""

import numpy as np
import pytest
import tensorflow as tf

from kgen import philox

SEEDS = np.array([[0, 0], [7, 1], [-3, 2**31 - 1], [123456, -(2**31)], [1, 0]], np.int32)

# Random123, the authors' kat_vectors of philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    (
        [0x00000000] * 4,
        [0x00000000] * 2,
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
    ),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_vectors(counter, key, expected):
    counter, key = (tuple(tf.constant(np.uint64(v)) for v in values) for values in (counter, key))
    assert [int(word) for word in philox.philox(counter, key)] == expected


@pytest.mark.parametrize("num", [1, 2, 4, 5, 11])
def test_bits_are_those_of_each_seed_alone(num):
    drawn = philox.integers(SEEDS, num).numpy()
    for row, seed in zip(drawn, SEEDS, strict=True):
        alone = tf.random.stateless_uniform([num], seed, None, None, tf.int32, alg="philox")
        np.testing.assert_array_equal(row, alone)


@pytest.mark.parametrize("num", [1, 2, 5, 4097])
def test_noise_is_that_of_each_seed_alone(num):
    drawn = tf.function(philox.normals)(SEEDS, num).numpy()
    for row, seed in zip(drawn, SEEDS, strict=True):
        alone = tf.random.stateless_normal([num], seed, alg="philox")
        np.testing.assert_allclose(row, alone, rtol=1e-5, atol=3e-6)
