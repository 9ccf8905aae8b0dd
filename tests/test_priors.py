"""Priors against densities in numpy, and against their own samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.gaussian import Gaussian
from kgen.priors import GaussianMixture, StandardNormal, VampPrior

SEED = tf.constant([3, 4])


def normal_pdf(z, mean, std):
    return np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


def test_standard_normal():
    z = np.array([[0.5, -1.0]], "float32")
    expected = np.log(normal_pdf(z, 0, 1)).sum(1)
    np.testing.assert_allclose(StandardNormal((2,)).log_prob(tf.constant(z)), expected, rtol=1e-5)
    drawn = StandardNormal((2,)).sample(50000, SEED, temperature=0.5).numpy()
    np.testing.assert_allclose(drawn.std(0), 0.5, rtol=0.02)


def mixture():
    prior = GaussianMixture(3, (2,))
    rng = np.random.default_rng(0)
    prior.logits.assign(rng.normal(size=3))
    prior.means.assign(2 * rng.normal(size=(3, 2)))
    prior.log_stds.assign(0.3 * rng.normal(size=(3, 2)))
    return prior


def pdf(prior, z):
    w = np.exp(prior.logits.numpy()) / np.exp(prior.logits.numpy()).sum()
    parts = normal_pdf(z[:, None], prior.means.numpy(), np.exp(prior.log_stds.numpy()))
    return parts.prod(-1) @ w


def test_the_density_of_narrow_components_far_from_zero():
    """(z - m)^2 / s^2 is of order 1, and each of its three terms of order 1e8."""
    rng = np.random.default_rng(0)
    prior = GaussianMixture(3, (4,))
    prior.means.assign(10 + rng.normal(size=(3, 4)))
    prior.log_stds.assign(rng.uniform(-7, -6, size=(3, 4)))
    mean, std = prior.means.numpy().astype("float64"), np.exp(prior.log_stds.numpy())
    z = (mean + std * rng.normal(size=(3, 4))).astype("float32")
    parts = np.log(normal_pdf(z.astype("float64"), mean, std)).sum(-1) - np.log(3)
    np.testing.assert_allclose(prior.log_prob(tf.constant(z)), parts, rtol=1e-5)


def test_mixture_density_and_samples():
    prior = mixture()
    z = np.random.default_rng(1).normal(size=(5, 2)).astype("float32")
    np.testing.assert_allclose(prior.log_prob(tf.constant(z)), np.log(pdf(prior, z)), rtol=1e-4)
    drawn = prior.sample(100000, SEED).numpy()
    w = np.exp(prior.logits.numpy()) / np.exp(prior.logits.numpy()).sum()
    np.testing.assert_allclose(drawn.mean(0), w @ prior.means.numpy(), atol=0.03)


def test_kl_to_a_mixture_is_estimated_without_bias():
    prior, step = mixture(), 0.02
    mean, std = np.array([0.3, -0.2]), np.array([0.6, 0.9])
    q = Gaussian(
        tf.constant(np.tile(mean, (200000, 1)), tf.float32), tf.constant(np.log(std), tf.float32)
    )
    q = Gaussian(q.mean, tf.zeros_like(q.mean) + q.log_std)
    estimates = prior.kl(q, q.sample(SEED)).numpy()
    axis = np.arange(-7, 7, step)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = normal_pdf(grid, mean, std).prod(-1)
    log_ratio = np.log(density + 1e-300) - np.log(pdf(prior, grid) + 1e-300)
    exact = (density * log_ratio).sum() * step**2
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - exact) < 4 * error


def test_vamp_prior_is_the_mean_posterior_of_its_pseudo_inputs():
    prior = VampPrior(4, (3,))
    weight = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")

    def posterior(x):
        return Gaussian(tf.matmul(x, weight), tf.zeros([tf.shape(x)[0], 2]))

    z = np.array([[0.1, 0.4]], "float32")
    means = prior.pseudo_inputs.numpy() @ weight
    expected = np.log(np.mean(normal_pdf(z, means, 1.0).prod(-1)))
    np.testing.assert_allclose(prior.log_prob(tf.constant(z), posterior), [expected], rtol=1e-5)
    assert prior.sample(7, SEED, posterior).shape == (7, 2)


def test_pseudo_inputs_stay_in_the_range_of_the_data():
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        prior = VampPrior(2, (3,), low=low, high=high)
        optimizer = keras.optimizers.SGD(1.0)
        steps = tf.constant([[9.0, -9.0, 0.0], [-9.0, 9.0, 0.0]])
        before = prior.pseudo_inputs.numpy()[:, 2]
        optimizer.apply([steps], [prior.pseudo_inputs])
        np.testing.assert_allclose(prior.pseudo_inputs[:, :2], [[low, high], [high, low]])
        np.testing.assert_allclose(prior.pseudo_inputs[:, 2], np.clip(before, low, high))
    with pytest.raises(ValueError, match="`low` must be less than `high`"):
        VampPrior(2, (3,), low=1.0)


@pytest.mark.parametrize("make", [GaussianMixture, VampPrior])
def test_a_mixture_that_begins_at_data_is_their_mean_posterior(make):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 2)).astype("float32")
    x, z = rng.uniform(size=(4, 2)), rng.normal(size=(3, 2))

    def posterior(x):
        return Gaussian(tf.matmul(x, weight), 0.5 * x - 0.3)

    parts = normal_pdf(z[:, None], x @ weight, np.exp(0.5 * x - 0.3)).prod(-1)
    prior = make(4, (2,))
    prior.begin_at(x, posterior)
    log_prob = prior.log_prob(tf.constant(z, tf.float32), posterior)
    np.testing.assert_allclose(log_prob, np.log(parts.mean(1)), rtol=1e-4)
    with pytest.raises(ValueError, match="one example for each of the 4 components"):
        prior.begin_at(x[:3], posterior)


@pytest.mark.parametrize("make", [lambda: GaussianMixture(0, (2,)), lambda: VampPrior(0, (2,))])
def test_a_mixture_needs_components(make):
    with pytest.raises(ValueError, match="`num_components` must be at least 1"):
        make()
