"""The convolution whose kernel has its gradient by matrix products."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.distribution import fused
from kgen.networks.conv2d import MAX_PIXELS, MIN_CHANNELS, Conv2D
from kgen.networks.unet import UNet

OPTIONS = {"filters": MIN_CHANNELS, "kernel_size": 3, "padding": "same"}


def gradients(layer, x, dy, allowed=True):
    """The output and the gradients of a layer in a graph, and the operations of that graph."""

    @tf.function
    def run():
        with fused(allowed, training=True), tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return y, *tape.gradient(y, [x, layer.kernel.value], dy)

    graph = run.get_concrete_function().graph
    return run(), [op.type for op in graph.get_operations()]


def integers(shape, seed):
    """Numbers of which all sums below are exact in bfloat16, if they have at most 256 parts."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype("float32")


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 7)])
def test_gradients_are_those_of_keras(size):
    layer = Conv2D(**OPTIONS, dtype="mixed_bfloat16")
    plain = keras.layers.Conv2D(**OPTIONS, use_bias=False)
    x, dy = (tf.constant(integers((2, *size, MIN_CHANNELS), seed)) for seed in (0, 1))
    kernel = integers((3, 3, MIN_CHANNELS, MIN_CHANNELS), 2)
    kernel *= np.random.default_rng(3).uniform(size=kernel.shape) < 0.1  # few parts of a sum
    for other in (layer, plain):
        other.build(x.shape)
        other.kernel.assign(kernel)
    (y, dx, dk), operations = gradients(layer, tf.cast(x, tf.bfloat16), tf.cast(dy, tf.bfloat16))
    assert operations.count("MatMul") == 9
    assert "Conv2DBackpropFilter" not in operations
    expected, operations = gradients(plain, x, dy)
    assert "MatMul" not in operations
    for value, right in zip((y, dx, dk), expected):
        assert value.shape == right.shape
        np.testing.assert_array_equal(tf.cast(value, tf.float32), right)


@pytest.mark.parametrize(
    "change",
    [
        {"strides": 2},
        {"kernel_size": 1},
        {"padding": "valid"},
        {"dilation_rate": 2},
        {"groups": 2},
        {"filters": MIN_CHANNELS // 2},
        {"dtype": "float32"},
    ],
)
def test_other_convolutions_are_those_of_keras(change):
    layer = Conv2D(**{**OPTIONS, "dtype": "mixed_bfloat16", **change})
    x = tf.zeros([2, 4, 4, MIN_CHANNELS], layer.compute_dtype)
    layer.build(x.shape)
    _, operations = gradients(layer, x, None)
    assert "MatMul" not in operations


def test_larger_pictures_and_exports_are_those_of_keras():
    for width, allowed in ((MAX_PIXELS + 1, True), (8, False)):
        layer = Conv2D(**OPTIONS, dtype="mixed_bfloat16")
        x = tf.zeros([2, 1, width, MIN_CHANNELS], tf.bfloat16)
        layer.build(x.shape)
        _, operations = gradients(layer, x, None, allowed)
        assert "MatMul" not in operations


def test_sizes_that_are_unknown_are_those_of_keras():
    layer = Conv2D(**OPTIONS, dtype="mixed_bfloat16")
    layer.build((None, None, None, MIN_CHANNELS))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, MIN_CHANNELS], tf.bfloat16)])
    def run(x):
        with fused(training=True):
            return layer(x)

    assert run(tf.zeros([1, 2, 2, MIN_CHANNELS], tf.bfloat16)).shape == (1, 2, 2, MIN_CHANNELS)


def test_networks_have_it():
    network = UNet((4, 4, 3), channels=(64,), blocks=1, attention=False, middle_attention=False)
    assert any(isinstance(layer, Conv2D) for layer in network.graph.layers)
