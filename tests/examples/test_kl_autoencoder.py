"""An autoencoder of twice the size with the latents of a smaller one."""

import dataclasses

import numpy as np
import pytest

import kgen
from kgen.networks.conv import decoder, encoder


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("kl_autoencoder")


def small():
    model = kgen.KLAutoencoder(
        encoder((8, 8, 3), 2, channels=(8, 8)), decoder((4, 4, 2), channels=(8, 8))
    )
    model.latent_mean.assign([1.0, 2.0])
    model.latent_std.assign([0.5, 3.0])
    return model


@pytest.fixture(scope="module")
def data(example):
    return dataclasses.replace(example.DATA["emoji"], size=16, channels=(8, 8), patch=2)


def test_latents_are_those_of_the_halved_picture(example, data):
    one = small()
    grown = example.grown(one, data)
    halves = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    doubled = halves.repeat(2, axis=1).repeat(2, axis=2)
    z = grown.encode(doubled)
    np.testing.assert_allclose(z, one.encode(halves), atol=1e-5)
    assert grown.decode(z).shape == (2, 16, 16, 3)


def test_the_decoder_alone_is_trained(example, data):
    one = small()
    grown = example.grown(one, data, l1=0.0)
    before = [v.numpy() for v in one.encoder.weights], [v.numpy() for v in grown.decoder.weights]
    grown.compile("sgd")
    x = np.random.default_rng(1).uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
    grown.fit(x, verbose=0)
    after = one.encoder.weights, grown.decoder.weights
    for old, new in zip(before[0], after[0]):
        np.testing.assert_array_equal(old, new)
    assert any((old != new.numpy()).any() for old, new in zip(before[1], after[1]))


def test_the_decoder_starts_from_another_one(example, data):
    like = example.grown(small(), data)
    grown = example.grown(small(), data, like)
    for new, old in zip(grown.decoder.weights, like.decoder.weights):
        np.testing.assert_array_equal(new, old)
