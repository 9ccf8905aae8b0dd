"""Folding, padding and cropping against TensorFlow's own operations, and free sizes."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import Crop, CropTo, Fold, Pad, Pixels, Unfold, fold, unfold
from kgen.networks.shapes import reshape, tokens

SHAPES = [[2, 12, 3], [2, 4, 6, 3], [2, 4, 6, 8, 3]]


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def free(layer, *inputs):
    """A layer in a graph that knows the channels of its inputs alone."""
    signature = [tf.TensorSpec([None] * (x.ndim - 1) + [x.shape[-1]]) for x in inputs]
    return tf.function(layer, input_signature=signature)(*inputs)


def test_folding_is_space_to_depth():
    x = noise([2, 4, 6, 3])
    np.testing.assert_array_equal(fold(x, 2), tf.nn.space_to_depth(x, 2))
    assert fold(x, 1) is x


@pytest.mark.parametrize("shape", SHAPES)
def test_folding_takes_blocks(shape):
    """Channels of the first pixel are the block in the corner, in the order of its axes."""
    x = noise(shape)
    rank = len(shape) - 2
    folded = Fold(2)(x)
    assert folded.shape == (2, *(n // 2 for n in shape[1:-1]), 2**rank * 3)
    corner = x[(0, *[slice(0, 2)] * rank)]
    np.testing.assert_array_equal(folded[(0,) * (rank + 1)], tf.reshape(corner, [-1]))
    np.testing.assert_array_equal(
        Fold(2)(2 * x)[(1, *(-1,) * rank)], 2 * folded[(1, *(-1,) * rank)]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_unfolding_is_the_inverse_of_folding(shape):
    x = noise(shape)
    folded = Fold(2)(x)
    np.testing.assert_array_equal(unfold(folded, 2), x)
    np.testing.assert_array_equal(free(Fold(2), x), folded)
    np.testing.assert_array_equal(free(Unfold(2), folded), x)
    assert Fold(2).compute_output_shape(shape) == folded.shape
    assert Unfold(2).compute_output_shape(tuple(folded.shape)) == tuple(shape)


@pytest.mark.parametrize(
    ("size", "multiple", "before_after"),
    [
        ((6, 8), 4, [[1, 1], [0, 0]]),
        ((5, 9), 4, [[1, 2], [1, 2]]),
        ((3,), 8, [[2, 3]]),
        ((4, 5, 6), 2, [[0, 0], [0, 1], [0, 0]]),
        ((5, 5), (2, 3), [[0, 1], [0, 1]]),
    ],
)
def test_padding_and_cropping(size, multiple, before_after):
    x = noise([2, *size, 3])
    padded = Pad(multiple)(x)
    np.testing.assert_array_equal(padded, tf.pad(x, [[0, 0], *before_after, [0, 0]]))
    np.testing.assert_array_equal(free(Pad(multiple), x), padded)
    assert Pad(multiple).compute_output_shape(x.shape) == padded.shape
    for cropped in (Crop()(padded, x), CropTo(size)(padded), free(Crop(), padded, x)):
        np.testing.assert_array_equal(cropped, x)
    assert CropTo(size).compute_output_shape(padded.shape) == tuple(x.shape)


def test_what_fits_is_left_alone():
    """Nothing but its shape is read."""

    @tf.function
    def run(x):
        return Crop()(Pad(4)(x), x)

    def uses(size):
        graph = run.get_concrete_function(tf.TensorSpec([None, *size, 3])).graph
        return {op.type for op in graph.inputs[0].consumers()}

    assert uses((4, 8)) <= {"Shape", "Identity"}
    assert "Pad" in uses((4, 7))  # it would be seen


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_and_pixels(shape):
    x = noise(shape)
    sequence = tokens(x)
    np.testing.assert_array_equal(sequence, tf.reshape(x, [2, -1, 3]))
    np.testing.assert_array_equal(Pixels()(sequence, x[..., :1]), x)
    np.testing.assert_array_equal(free(Pixels(), sequence, x), x)


def test_reshape_keeps_what_is_known():
    @tf.function(input_signature=[tf.TensorSpec([None, 6, None])])
    def run(x):
        batch, rows, channels = (
            v if v is not None else tf.shape(x)[i] for i, v in enumerate(x.shape)
        )
        one, both = reshape(x, (batch, 3, 2, 5)), reshape(x, (batch, rows // 2, 2, channels))
        assert one.shape == (None, 3, 2, 5)
        assert both.shape == (None, 3, 2, None)
        return both

    assert run(noise([2, 6, 5])).shape == (2, 3, 2, 5)
