"""The gate of the feed-forward layer, in one compiled pass."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.distribution import fused
from kgen.networks.gated_gelu import GatedGELU
from kgen.networks.passes import LARGE_IN_TRAINING

SHAPE = (2, 4, LARGE_IN_TRAINING // 4)


def derivatives(function, x, upstream):
    """The value, the gradient, and the gradient of the square of the gradient."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        first = inner.gradient(y, x, upstream)
        square = tf.reduce_sum(tf.square(tf.cast(first, tf.float64)))
    return y, first, outer.gradient(square, x)


def compiles(run):
    library = run.get_concrete_function(True).graph.as_graph_def().library
    return any(function.attr["_XlaMustCompile"].b for function in library.function)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_product_with_the_gelu_of_keras(dtype, tolerance, training):
    x = tf.cast(3 * tf.random.stateless_normal(SHAPE, [0, 1]), dtype)
    upstream = tf.cast(tf.random.stateless_normal([*SHAPE[:2], SHAPE[2] // 2], [0, 2]), dtype)
    gate = GatedGELU()

    @tf.function
    def run(allowed):
        with fused(allowed, training=training):
            return derivatives(gate, x, upstream)

    assert compiles(run) == training

    def expected(x):
        a, b = tf.split(x, 2, axis=-1)
        return a * keras.activations.gelu(b, approximate=False)

    exact = derivatives(expected, tf.cast(x, tf.float64), tf.cast(upstream, tf.float64))
    found = run(True)
    for value, right in list(zip(found, exact))[: 2 if dtype == "bfloat16" else 3]:
        value = tf.cast(value, tf.float64)
        scale = np.abs(right).max()
        np.testing.assert_allclose(value, right, rtol=tolerance, atol=tolerance * scale)


def test_small_values_are_not_compiled():
    gate, x = GatedGELU(), tf.zeros([2, LARGE_IN_TRAINING - 2])

    @tf.function
    def run(allowed):
        with fused(allowed, training=True):
            return gate(x)

    assert not compiles(run)


def test_symbolic_calls_and_configurations():
    x = keras.Input((4, 6), dtype="float16")
    model = keras.Model(x, GatedGELU()(x))
    assert (model.output.shape, model.output.dtype) == ((None, 4, 3), "float16")
    again = keras.Model.from_config(model.get_config())
    np.testing.assert_array_equal(again(tf.ones([1, 4, 6])), model(tf.ones([1, 4, 6])))
