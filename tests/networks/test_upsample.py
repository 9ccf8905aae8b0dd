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


@pytest.mark.parametrize("size", [(7,), (9, 6), (5, 8, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_doubled_picture_is_cropped_before_the_convolution(size, dtype):
    """Three layers of Keras, known and unknown sizes, even ones among them; and the gradients."""
    rank, small = len(size), [-(-n // 2) for n in size]
    x, like = tf.cast(noise([2, *small, 3]), dtype), noise([2, *size, 1])
    weights = [noise([*[3] * rank, 3, 4], 1), noise([4], 2)]
    ours = UpsampleConv(4, dtype=dtype)
    convolution = getattr(keras.layers, f"Conv{rank}D")(4, 3, padding="same", dtype=dtype)

    def theirs(x, like):
        for axis in range(1, rank + 1):
            x = tf.repeat(x, 2, axis)
        return convolution(x[(slice(None), *map(slice, size))])

    unknown = [None] * (rank + 1)
    signature = [tf.TensorSpec([*unknown, 3], dtype), tf.TensorSpec([*unknown, 1])]
    results = []
    for layer, function in (
        (ours, ours),
        (ours, tf.function(ours, input_signature=signature)),
        (convolution, theirs),
    ):
        function(x, like)
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x, like)
            loss = tf.reduce_sum(tf.cast(y, tf.float32) * noise(y.shape, 3))
        kernel, bias = (v.value for v in layer.trainable_variables)
        results.append(
            [tf.cast(a, tf.float32) for a in (y, *tape.gradient(loss, [x, kernel, bias]))]
        )
    tolerance = 2e-4 if dtype == "float32" else 0.1
    for known, dynamic, other in zip(*results):
        scale = np.abs(other).max()
        np.testing.assert_allclose(known, other, atol=tolerance * scale)
        np.testing.assert_allclose(dynamic, other, atol=tolerance * scale)
    assert ours.compute_output_shape(tuple(x.shape), tuple(like.shape)) == (2, *size, 4)
    even = noise([2, *(2 * n for n in small), 1])
    np.testing.assert_allclose(
        tf.cast(tf.function(ours, input_signature=signature)(x, even), tf.float32),
        tf.cast(ours(x), tf.float32),
        atol=1e-5 if dtype == "float32" else 0.1,
    )
