"""Blocks of the Stable Diffusion networks, in one, two and three dimensions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import blocks


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(2, 1), (8, 2), (48, 12), (96, 24), (128, 32), (144, 24), (192, 32), (320, 32), (998, 2)],
)
def test_group_norm_takes_groups_that_divide(channels, groups):
    x = keras.Input((2, 2, channels))
    norm = keras.Model(x, blocks.group_norm(x, "norm")).get_layer("norm")
    assert norm.groups == groups


@pytest.mark.parametrize("halving", ["after", "both"])
@pytest.mark.parametrize("size", [(8,), (6, 8), (4, 6, 2)])
def test_halving_is_a_convolution_with_explicit_zeros(size, halving):
    x = keras.Input((*size, 3))
    h = blocks.downsample(x, "halve", halving)
    network = keras.Model(x, h)
    kernel, bias = noise([*[3] * len(size), 3, 3], 1), noise([3], 2)
    network.set_weights([kernel, bias])
    x = noise([2, *size, 3])
    zeros = [0, 1] if halving == "after" else [1, 1]
    padded = tf.pad(x, [[0, 0], *[zeros] * len(size), [0, 0]])
    expected = tf.nn.convolution(padded, kernel, [2] * len(size), "VALID") + bias
    assert expected.shape == (2, *(n // 2 for n in size), 3)
    np.testing.assert_allclose(network(x), expected, atol=1e-5)


def test_half_of_an_odd_size_is_rounded_up():
    x = keras.Input((7, 5, 3))
    network = keras.Model(x, blocks.downsample(x, "halve", "both"))
    kernel, bias = noise([3, 3, 3, 3], 1), noise([3], 2)
    network.set_weights([kernel, bias])
    x = noise([2, 7, 5, 3])
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])
    expected = tf.nn.convolution(padded, kernel, [2, 2], "VALID") + bias
    assert expected.shape == (2, 4, 3, 3)
    np.testing.assert_allclose(network(x), expected, atol=1e-5)


def test_halving_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="`halving` must be one of"):
        blocks.downsample(keras.Input((4, 4, 3)), "halve", "same")


def test_geglu_is_gated_by_an_exact_gelu():
    x = keras.Input((5, 4))
    network = keras.Model(x, blocks.geglu(x, "ff"))
    kernel, bias, out_kernel, out_bias = weights = [
        noise(w.shape, i).numpy() for i, w in enumerate(network.weights)
    ]
    network.set_weights(weights)
    x = noise([2, 5, 4])
    a, b = np.split(x @ kernel + bias, 2, axis=-1)
    gelu = b * 0.5 * (1 + tf.math.erf(b / np.sqrt(2)).numpy())
    np.testing.assert_allclose(network(x), (a * gelu) @ out_kernel + out_bias, rtol=1e-4, atol=1e-3)


def test_data_without_axes_in_space_are_refused():
    with pytest.raises(ValueError, match="one, two or three spatial axes"):
        blocks.conv(keras.Input((3,)), 4, "conv")
