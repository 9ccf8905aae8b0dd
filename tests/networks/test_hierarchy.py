"""The networks of hierarchical VAEs: sizes that do not divide, other than squares, other axes."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import conv_hierarchy, dense_hierarchy


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def filled(network):
    for i, weight in enumerate(network.weights):
        weight.assign(0.2 * noise(weight.shape, 100 + i))
    return network


def way_down(levels, features):
    """Runs every level with the mean of its posterior, and returns the last state."""
    state = tf.zeros([features[0].shape[0], *levels[0][3]])
    for (prior, posterior, merge, _), h in zip(levels, features):
        z, log_std = tf.split(posterior([state, h]), 2, axis=-1)
        assert prior(state).shape == (*z.shape[:-1], 2 * z.shape[-1])
        assert log_std.shape == z.shape
        state = merge([state, z])
    return state


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((28, 28, 1), (7, 14)),
        ((12, 20, 3), ((3, 5), (6, 10))),
        ((13, 11, 3), ((2, 3), (4, 6))),
        ((30, 2), (5, 15)),
        ((6, 8, 5, 1), ((3, 2, 1), (3, 4, 2))),
        ((8, 8, 1), (2, 4, 8)),
    ],
)
def test_conv_hierarchy_runs_down_to_the_shape_of_the_data(shape, sizes):
    options = {"counts": (1, 2, 1), "channels": (16, 8, 8), "latents": (3, 2, 2)}
    options = {key: value[: len(sizes)] for key, value in options.items()}
    encoder, levels, decoder = conv_hierarchy(shape, 2 * shape[-1], sizes=sizes, **options)
    features = encoder(noise([2, *shape]))
    assert len(features) == len(levels) == sum(options["counts"])
    assert decoder(way_down(levels, features)).shape == (2, *shape[:-1], 2 * shape[-1])


def test_conv_hierarchy_pads_odd_sizes_with_zeros_and_crops():
    options = {"sizes": ((2, 3), (4, 6)), "counts": (1, 1)}
    odd, even = (conv_hierarchy((h, w, 3), 1, **options) for h, w in ((13, 11), (16, 12)))
    x, state = noise([2, 13, 11, 3]), noise([2, 4, 6, 32])
    padded = tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]])
    for one, other in zip(filled(odd[0])(x), filled(even[0])(padded)):
        np.testing.assert_array_equal(one, other)
    cropped, whole = (filled(decoder)(state) for *_, decoder in (odd, even))
    np.testing.assert_array_equal(cropped, whole[:, 1:14, :11])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (3, 14)}, "`sizes` must have"),
        ({"sizes": (7, (14, 14, 14))}, "`sizes` must have"),
        ({"sizes": (7, 35)}, "`sizes` must have"),
        ({"counts": (1, 1, 1)}, "`counts` must have one entry for each of the 2"),
        ({"latents": (1,)}, "`latents` must have one entry for each of the 2"),
    ],
)
def test_conv_hierarchy_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        conv_hierarchy((28, 28, 1), 1, **options)


def test_dense_hierarchy_runs_down_to_the_shape_of_the_data():
    encoder, levels, decoder = dense_hierarchy((4, 3, 2), (2, 3, 5), 4, hidden=(8,))
    features = encoder(noise([2, 4, 3, 2]))
    state, _ = tf.split(levels[0][1](features[0]), 2, axis=-1)
    for (prior, posterior, merge, _), h, size in zip(levels[1:], features[1:], (3, 5)):
        assert prior(state).shape == (2, 2 * size)
        z, _ = tf.split(posterior([state, h]), 2, axis=-1)
        merged = merge([state, z])
        np.testing.assert_array_equal(merged, tf.concat([state, z], -1))
        state = merged
    assert decoder(state).shape == (2, 4, 3, 4)
