"""The diffusion transformer: positions, sizes, what its blocks begin as."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import DiT
from kgen.networks.dit import Positions

SMALL = {"width": 24, "depth": 1, "heads": 2}


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def filled(network):
    for i, weight in enumerate(network.trainable_variables):
        weight.assign(0.2 * noise(weight.shape, 100 + i))
    return network


@pytest.mark.parametrize("size", [(5,), (4, 3), (2, 4, 3)])
def test_positions_are_sines_and_cosines_of_each_axis(size):
    width = 8 * len(size)
    frequencies = 10000.0 ** (-np.arange(4) / 4)
    table = Positions()(tf.zeros([1, np.prod(size), width]), tf.zeros([1, *size, 1])).numpy()[0]
    for row, place in zip(table, np.ndindex(size)):
        angles = np.outer(place, frequencies).ravel()
        np.testing.assert_allclose(row, [*np.sin(angles), *np.cos(angles)], atol=1e-6)


def test_it_knows_where_a_patch_is():
    """The same patch everywhere gives outputs that differ from place to place."""
    network = DiT((8, 8, 4), width=16, depth=1)
    for weight in network.trainable_variables:
        weight.assign(0.2 * noise(weight.shape, 7))
    out = network(tf.ones([1, 8, 8, 4]), tf.zeros([1])).numpy()
    patches = out.reshape(4, 2, 4, 2, 4).transpose(0, 2, 1, 3, 4).reshape(16, -1)
    assert len(np.unique(patches.round(4), axis=0)) == 16


def test_blocks_begin_as_the_identity():
    """adaLN-Zero: before training the blocks change nothing, whatever their other weights."""
    network = DiT((8, 8, 4), width=16, depth=2)
    layers = {layer.name: layer for layer in network.graph.layers}
    inside = keras.Model(
        network.graph.input, [layers["positions"].output, layers["norm_out"].input]
    )
    before, after = inside({"z": noise([2, 8, 8, 4]), "log_snr": tf.zeros([2])})
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("shape", "around"),
    [
        ((8, 6, 3), [[0, 0], [0, 0]]),
        ((7, 6, 3), [[0, 1], [0, 0]]),
        ((5, 2), [[0, 1]]),
        ((2, 3, 5, 2), [[0, 0], [0, 1], [0, 1]]),
    ],
)
def test_any_size_and_number_of_axes(shape, around):
    """Odd sizes are padded with zeros and cropped; a size may be known only when called."""
    network = filled(DiT((*[4] * (len(shape) - 1), shape[-1]), **SMALL))
    z, log_snr = noise([2, *shape]), tf.constant([-1.0, 2.0])
    out = network(z, log_snr)
    by_hand = network(tf.pad(z, [[0, 0], *around, [0, 0]]), log_snr)
    inside = (slice(None), *(slice(a, a + n) for (a, _), n in zip(around, shape)))
    np.testing.assert_array_equal(out, by_hand[inside])
    free = [tf.TensorSpec([None] * len(shape) + [shape[-1]]), tf.TensorSpec([None])]
    run = tf.function(network, input_signature=free)
    np.testing.assert_allclose(run(z, log_snr), out, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8, 8, 4), "width": 30, "heads": 3}, "`width` must be divisible by 4"),
        ({"shape": (8, 8, 4), "width": 32, "heads": 3}, "`width` must be divisible by 4"),
        ({"shape": (8, 8, 8, 4), "width": 32}, "`width` must be divisible by 6"),
        ({"shape": (8, 8, 4), "patch": 0}, "`patch` must be at least 1"),
    ],
)
def test_it_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        DiT(**options)
