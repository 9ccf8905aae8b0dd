"""Doubling and convolving in one, against two layers of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import UpsampleConv


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


@pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)])
def test_upsampling_equals_keras(size):
    """Nearest neighbour and a convolution, two layers of Keras; and the gradients."""
    rank = len(size)
    x, weights = noise([2, *size, 3]), [noise([*[3] * rank, 3, 4], 1), noise([4], 2)]
    ours = UpsampleConv(4)
    theirs = keras.Sequential(
        [
            getattr(keras.layers, f"UpSampling{rank}D")(2),
            getattr(keras.layers, f"Conv{rank}D")(4, 3, padding="same"),
        ]
    )
    results = []
    for layer in (ours, theirs):
        layer(x)
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y * noise(y.shape, 3))
        kernel, bias = (v.value for v in layer.trainable_variables)
        results.append([y, *tape.gradient(loss, [x, kernel, bias])])
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, atol=2e-4)
    assert ours.compute_output_shape(tuple(x.shape)) == (2, *(2 * n for n in size), 4)


def test_a_size_that_is_known_only_when_called():
    x, layer = noise([2, 5, 6, 3]), UpsampleConv(4)
    expected = layer(x)
    run = tf.function(layer, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_array_equal(run(x), expected)
    assert layer.compute_output_shape((None, None, 6, 3)) == (None, None, 12, 4)
