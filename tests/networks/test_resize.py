"""Networks for another size with the same weights, against networks made at that size."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.networks import DiT, TimeMLP, UNet, decoder, encoder, resized

PRESETS = pathlib.Path(__file__).parents[2] / "saved_models"


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def filled(network):
    for i, weight in enumerate(network.weights):
        weight.assign(0.2 * noise(weight.shape, 100 + i))
    return network


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (lambda size: encoder((*size, 3), 2, channels=(8, 16)), (8, 8), (12, 6)),
        (lambda size: encoder((*size, 3), 2, channels=(8, 16), patch=2), (8, 8), (9, 12)),
        (lambda size: decoder((*size, 2), channels=(8, 16), patch=2), (4, 4), (6, 3)),
        (lambda size: decoder((*size, 2), channels=(8, 16)), (4, 4), (None, 6)),
        (lambda size: encoder((*size, 3), 2, channels=(8, 16)), (8,), (13,)),
    ],
    ids=["encoder", "folded encoder", "decoder", "free decoder", "one axis"],
)
def test_it_equals_a_network_made_at_that_size(make, old, new):
    network = filled(make(old))
    other = resized(network, new)
    assert [a is b for a, b in zip(other.weights, network.weights)] == [True] * len(network.weights)
    assert len(other.weights) == len(network.weights)
    assert other.input_shape[1:-1] == new
    x = noise([2, *(n or 5 for n in new), network.input_shape[-1]])
    expected = filled(make(new))
    np.testing.assert_allclose(other(x), expected(x), atol=1e-5)
    before = noise([2, *old, network.input_shape[-1]])
    np.testing.assert_array_equal(network(before), resized(other, old)(before))


def test_the_size_that_it_has():
    network = decoder((4, 4, 2), channels=(8, 16))
    assert resized(network, (4, 4)) is network


def test_a_fixed_crop_is_left_out():
    network = decoder((4, 4, 2), channels=(8, 16), size=(7, 7))
    assert resized(network, (4, 6)).output_shape == (None, 8, 12, 3)


def test_networks_that_take_any_size_are_returned():
    for network in (
        UNet((8, 8, 4), channels=(8, 16), heads=2),
        DiT((8, 8, 4), width=16, depth=1, heads=2),
    ):
        assert resized(network, (12, 8)) is network


def test_the_autoencoder_of_a_preset_of_an_earlier_version():
    """Its layers state sizes; the present `encoder` and `decoder` with its weights do not."""
    autoencoder = kgen.from_preset(PRESETS / "text_to_image").autoencoder
    options = {"channels": (48, 96, 128), "patch": 2}
    for network, size, same in (
        (autoencoder.encoder, (48, 80), lambda: encoder((48, 80, 3), 12, **options)),
        (autoencoder.decoder, (6, 10), lambda: decoder((6, 10, 12), **options)),
    ):
        expected = same()
        expected.set_weights(network.get_weights())
        x = noise([2, *size, network.input_shape[-1]])
        np.testing.assert_allclose(resized(network, size)(x), expected(x), atol=1e-4)
        with pytest.raises(ValueError, match="`size` must be known and in proportion"):
            resized(network, (None, 8))


@pytest.mark.parametrize(
    ("network", "size", "error", "message"),
    [
        (lambda: TimeMLP(2, width=8), (3,), TypeError, "must take any size or be a functional"),
        (lambda: keras.layers.Dense(3), (3,), TypeError, "must take any size or be a functional"),
        (
            lambda: decoder((4, 4, 2)),
            (4,),
            ValueError,
            "`size` must have an entry for each of the 2",
        ),
    ],
)
def test_it_refuses_others(network, size, error, message):
    with pytest.raises(error, match=message):
        resized(network(), size)
