"""The VQ-VAE: nearest codes, straight-through gradients, averages, revival, perplexity."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.models.vqvae import perplexity
from kgen.networks import mlp


def identity(shape):
    network = mlp(shape, shape, hidden=())
    size = int(np.prod(shape))
    network.set_weights([np.eye(size), np.zeros(size)])
    return network


def toy(num_codes=4, **options):
    return kgen.VQVAE(identity((3, 2)), identity((3, 2)), num_codes, seed=0, **options)


X = np.random.default_rng(0).normal(size=(50, 3, 2)).astype("float32")


def test_codes_are_the_nearest():
    model = toy()
    codes = model.codes.numpy()
    expected = np.linalg.norm(X[:, :, None] - codes, axis=-1).argmin(-1)
    np.testing.assert_array_equal(model.encode(X), expected)
    np.testing.assert_allclose(model.reconstruct(X), codes[expected], atol=1e-6)
    error = ((X - codes[expected]) ** 2).sum((1, 2))
    terms = model.loss_terms(X)
    np.testing.assert_allclose(terms["reconstruction"], error, rtol=1e-4)
    np.testing.assert_allclose(terms["commitment"], 0.25 * error, rtol=1e-4)


def test_gradient_passes_straight_through():
    """With identities around it, d reconstruction / d bias of the encoder is 2 (e - x)."""
    model = toy(commitment=0.0)
    bias = model.encoder.trainable_variables[1]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.loss_terms(X[:1])["reconstruction"])
    expected = 2 * (model.reconstruct(X[:1]) - X[:1])
    np.testing.assert_allclose(tape.gradient(loss, bias), np.ravel(expected), rtol=1e-4)


def test_codes_follow_the_means_of_their_vectors():
    """Without decay and with fixed networks, a step is one iteration of k-means."""
    model = toy(decay=0.0, revive_below=0.0)
    model.counts.assign(np.ones(4))
    codes = X.reshape(-1, 2)[[0, 10, 20, 30]]
    model.codes.assign(codes)
    model.compile(keras.optimizers.SGD(0.0))
    chosen = np.linalg.norm(X.reshape(-1, 1, 2) - codes, axis=-1).argmin(-1)
    model.fit(X, batch_size=50, verbose=0)
    for k in range(4):
        np.testing.assert_allclose(model.codes[k], X.reshape(-1, 2)[chosen == k].mean(0), rtol=1e-4)
    np.testing.assert_allclose(model.counts, np.bincount(chosen, minlength=4))


def test_codes_begin_on_the_data_and_dead_ones_come_back():
    model = toy(16, decay=0.8)
    model.codes.assign(np.full((16, 2), 1e3))  # far from all data
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(X, epochs=30, batch_size=25, verbose=0).history
    assert history["perplexity"][0] < 8
    assert history["perplexity"][-1] > 10
    assert np.abs(model.codes.numpy()).max() < 4
    codes = model.codes.numpy()
    codes[3] = 1e3
    model.codes.assign(codes)
    counts, sums = model.counts.numpy(), model.sums.numpy()
    sums[3] = 1e3 * counts[3]
    model.sums.assign(sums)
    model.fit(X, epochs=30, batch_size=25, verbose=0)
    assert np.abs(model.codes.numpy()).max() < 4


def test_an_unused_code_stays_where_it_is():
    model = toy(4, decay=0.5, revive_below=0.0)
    model.codes.assign([[0.0, 0.0], [50.0, 50.0], [50.0, -50.0], [-50.0, 50.0]])
    model.counts.assign(np.ones(4))
    model.sums.assign(model.codes)
    model.compile(keras.optimizers.SGD(0.0))
    model.fit(X, epochs=20, batch_size=25, verbose=0)
    np.testing.assert_allclose(model.codes[1:], [[50, 50], [50, -50], [-50, 50]], rtol=1e-4)


def test_large_counts_are_saved(tmp_path):
    """More than float16 can hold: batches of many pictures of many codes."""
    model = toy(4)
    model.counts.assign([1e5, 2e5, 1.0, 3.0])
    model.save_to_preset(tmp_path)
    np.testing.assert_array_equal(kgen.from_preset(tmp_path).counts, model.counts)


def test_perplexity_counts_codes_in_use():
    assert float(perplexity(tf.constant([5.0, 5.0, 5.0, 0.0]))) == pytest.approx(3)
    assert float(perplexity(tf.constant([5.0, 0.0]))) == pytest.approx(1)


def test_two_devices_follow_the_whole_batch(strategies):
    codes = []
    for strategy in strategies:
        with strategy.scope():
            model = toy(decay=0.5, revive_below=0.0)
            model.counts.assign(np.ones(4))
            model.codes.assign(X.reshape(-1, 2)[[0, 10, 20, 30]])
            model.sums.assign(X.reshape(-1, 2)[[0, 10, 20, 30]])
            model.compile(keras.optimizers.SGD(0.0))
        model.fit(X, batch_size=50, verbose=0, shuffle=False)
        codes.append(model.codes.numpy())
    np.testing.assert_allclose(codes[0], codes[1], rtol=1e-5)


def test_a_step_that_is_skipped_leaves_the_codes():
    model = toy()
    model.compile("adam", skip_above=float("inf"))
    model.fit(X, batch_size=50, verbose=0)
    before = [v.numpy() for v in (model.codes, model.counts, model.sums)]
    broken = X.copy()
    broken[3, 0, 0] = np.nan
    model.train_on_batch(tf.constant(broken))
    assert int(model.skipped_steps) == 1
    for variable, value in zip((model.codes, model.counts, model.sums), before):
        np.testing.assert_array_equal(variable, value)
    model.train_on_batch(tf.constant(X))
    assert np.abs(model.codes - before[0]).max() > 0
