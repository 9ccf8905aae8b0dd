"""Penalties and corruptions against closed forms and frequencies."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.corruption import GaussianNoise, Masking, SaltAndPepper
from kgen.networks import KSparse
from kgen.penalties import L1, Contractive, TargetRate

SEED = tf.constant([1, 2])
X = tf.constant(np.random.default_rng(0).normal(size=(6, 5)), tf.float32)
W = tf.constant(np.random.default_rng(1).normal(size=(5, 3)), tf.float32)


def encode(x):
    return tf.tanh(tf.matmul(x, W))


def jacobian_norms():
    """|d tanh(x W) / dx|^2 = sum_ij (1 - h_j^2)^2 W_ij^2."""
    h = np.tanh(X.numpy() @ W.numpy())
    return (((1 - h**2) ** 2)[:, None, :] * W.numpy() ** 2).sum((1, 2))


def test_contractive_is_the_squared_norm_of_the_jacobian():
    code, penalty = Contractive(2.0)(encode, X, SEED)
    np.testing.assert_allclose(code, encode(X), rtol=1e-6)
    np.testing.assert_allclose(penalty, 2 * jacobian_norms(), rtol=1e-4)


def test_contractive_probes_are_unbiased():
    estimates = np.stack(
        [Contractive(1.0, num_probes=4)(encode, X, tf.constant([0, i]))[1] for i in range(300)]
    )
    error = estimates.std(0) / np.sqrt(300)
    assert np.all(np.abs(estimates.mean(0) - jacobian_norms()) < 4 * error + 1e-5)


def test_the_contractive_penalty_has_gradients_for_the_encoder():
    weight = tf.Variable(W)
    with tf.GradientTape() as tape:
        _, penalty = Contractive(1.0)(lambda x: tf.matmul(x, weight), X, SEED)
        total = tf.reduce_sum(penalty)
    np.testing.assert_allclose(tape.gradient(total, weight), 2 * 6 * W, rtol=1e-5)


def test_l1_and_target_rate():
    code, penalty = L1(0.5)(encode, X, SEED)
    np.testing.assert_allclose(penalty, 0.5 * np.abs(code).sum(1), rtol=1e-6)
    half = TargetRate(0.5, 3.0)(lambda x: tf.fill([6, 4], 0.5), X, SEED)[1]
    np.testing.assert_allclose(half, 0, atol=1e-6)
    rate = TargetRate(0.1, 3.0)(lambda x: tf.fill([6, 4], 0.3), X, SEED)[1]
    kl = 0.1 * np.log(0.1 / 0.3) + 0.9 * np.log(0.9 / 0.7)
    np.testing.assert_allclose(rate, 3 * 4 * kl, rtol=1e-5)


def test_corruptions_change_as_many_values_as_they_say():
    x = tf.fill([200, 100], 0.5)
    assert (Masking(0.25)(x, SEED).numpy() == 0).mean() == pytest.approx(0.25, abs=0.01)
    noisy = SaltAndPepper(0.3, low=-1.0)(x, SEED).numpy()
    assert (noisy == -1).mean() == pytest.approx(0.15, abs=0.01)
    assert (noisy == 1).mean() == pytest.approx(0.15, abs=0.01)
    noise = (GaussianNoise(0.2)(x, SEED) - x).numpy()
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    np.testing.assert_array_equal(GaussianNoise(0.2)(x, SEED) - x, noise)


def test_k_sparse_keeps_the_largest():
    code = np.random.default_rng(0).permutation(20).reshape(2, 10).astype("float32") + 1
    kept = KSparse(3)(code).numpy()
    assert ((kept > 0).sum(1) == 3).all()
    np.testing.assert_array_equal(np.sort(kept)[:, -3:], np.sort(code)[:, -3:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianNoise(0.0), "`std` must be positive"),
        (lambda: Masking(0.0), "`rate` must be in"),
        (lambda: Masking(1.5), "`rate` must be in"),
        (lambda: SaltAndPepper(-0.1), "`rate` must be in"),
        (lambda: TargetRate(0.0, 1.0), "`rate` must be in"),
        (lambda: TargetRate(1.0, 1.0), "`rate` must be in"),
        (lambda: Contractive(1.0, num_probes=0), "`num_probes` must be"),
        (lambda: KSparse(0), "`k` must be at least 1"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
