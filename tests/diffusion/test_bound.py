"""The terms of the bound: against quadrature, closed forms and finite differences."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, Denoiser, GaussianDiffusion, LearnedLogSNR, LinearLogSNR
from kgen.diffusion.bound import learned_schedule_terms, prior_term, reconstruction_term
from kgen.diffusion.prediction import target
from kgen.tensors import expand_to, split

SEEDS = split(tf.constant([5, 6]), 2)
every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])


def normal_density(z, mean, std):
    return np.exp(-((z - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))


@every_scaling
def test_prior_term_is_the_integral_of_the_log_ratio(scaling):
    """KL(q(z_1 | x) || p(z_1)) on a fine grid, coordinate by coordinate, with little noise."""
    process = GaussianDiffusion(LinearLogSNR(6.0, -0.5), scaling)
    x = np.array([[0.3, -1.2], [2.0, 0.0]])
    alpha, sigma = (float(v) for v in process.alpha_sigma(tf.constant(1.0, tf.float64)))
    spread = np.sqrt(alpha**2 + sigma**2)
    z = np.linspace(-12 * spread, 12 * spread, 40001)
    expected = np.zeros(2)
    for i, j in np.ndindex(2, 2):
        q, p = normal_density(z, alpha * x[i, j], sigma), normal_density(z, 0, spread)
        expected[i] += np.trapezoid(q * (np.log(q + 1e-300) - np.log(p + 1e-300)), z)
    assert (expected > 0.1).all()
    np.testing.assert_allclose(prior_term(process, tf.constant(x)), expected, rtol=1e-5)


@every_scaling
def test_reconstruction_of_real_values_is_the_entropy_of_the_last_noise(scaling):
    """-E log N(x; x + s eps, s^2) = log s + log(2 pi e) / 2 a coordinate, s = exp(-l_0 / 2)."""
    process = GaussianDiffusion(LinearLogSNR(6.0, -6.0), scaling)
    x = tf.ones([40000, 3])
    terms = reconstruction_term(process, x, SEEDS[0]).numpy()
    assert terms.shape == (40000,)
    expected = 3 * (-3.0 + np.log(2 * np.pi * np.e) / 2)
    assert terms.mean() == pytest.approx(expected, abs=4 * np.sqrt(1.5 / 40000))


@pytest.mark.parametrize("grey_levels", [2, 5])
def test_reconstruction_of_few_levels_is_bayes_rule_by_quadrature(grey_levels):
    """Levels of which several are likely after the noise; the mean over it on a grid."""
    log_snr = 1.0
    process = GaussianDiffusion(LinearLogSNR(log_snr, -4.0))
    levels = np.linspace(-1, 1, grey_levels)
    x = tf.constant(np.tile(levels[:, None], (1, 40000)), tf.float32)
    terms = reconstruction_term(process, x, SEEDS[0], grey_levels).numpy() / 40000
    noise = np.exp(-log_snr / 2)
    observed = np.linspace(-8, 8, 20001)
    likelihood = normal_density(observed[:, None], levels, noise)
    surprise = -np.log(likelihood / likelihood.sum(1, keepdims=True))
    for i in range(grey_levels):
        expected = np.trapezoid(likelihood[:, i] * surprise[:, i], observed)
        assert terms[i] == pytest.approx(expected, rel=0.04)
    assert terms.min() > 0.05


@every_scaling
def test_the_three_terms_of_the_exact_denoiser_are_the_log_density(scaling, gaussian_data):
    """-log p(x) = reconstruction + prior + denoising for the exact denoiser of Gaussian data."""
    process = GaussianDiffusion(CosineLogSNR(10.0, -10.0), scaling)
    denoise = gaussian_data.denoise(process)

    def network(z, log_snr, cond, training):
        log_snr = tf.cast(log_snr, z.dtype)
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
        z = z * tf.exp(process.log_std_of(expand_to(log_snr, z)))
        x_hat = denoise(z, process.schedule.time(log_snr))
        return target("eps", x_hat, (z - alpha * x_hat) / sigma, alpha, sigma)

    denoiser = Denoiser(network, process, "eps")
    few = gaussian_data.sample(2, seed=3)
    x = tf.constant(np.repeat(few, 200000, axis=0), tf.float32)
    terms = [
        reconstruction_term(process, x, split(SEEDS[1], 2)[0]),
        prior_term(process, x),
        denoiser.loss(x, None, SEEDS, times="importance"),
    ]
    bound = tf.add_n(terms).numpy().reshape(2, -1)
    error = bound.std(1) / bound.shape[1] ** 0.5
    assert (np.abs(bound.mean(1) + gaussian_data.log_prob(few)) < 4 * error + 0.005).all()
    assert (error < 0.06).all()


def test_the_term_of_a_learned_schedule_is_zero_and_has_the_gradient_of_the_mean_square():
    """d/ds log E[L^2] by finite differences, L the first term at fixed noise and times."""
    schedule = LearnedLogSNR(6.0, -6.0, width=4)

    def network(z, log_snr, cond, training):
        return 0.4 * z * tf.sigmoid(-log_snr)[:, None]

    denoiser = Denoiser(network, GaussianDiffusion(schedule), "eps")
    x = tf.constant(np.random.default_rng(0).normal(size=(200, 2)), tf.float32)
    options = {"weighting": "elbo", "times": "uniform"}
    with tf.GradientTape(persistent=True) as tape:
        loss, variance = learned_schedule_terms(denoiser, x, None, SEEDS, **options)
        total = tf.reduce_mean(variance)
        mean = tf.reduce_mean(loss)
    np.testing.assert_array_equal(variance, np.zeros(200))
    np.testing.assert_allclose(loss, denoiser.loss(x, None, SEEDS, times="uniform"), rtol=1e-5)
    weights = schedule.trainable_variables
    assert all(g is None for g in tape.gradient(mean, weights))

    def log_mean_square():
        loss = denoiser.loss(x, None, SEEDS, times="uniform")
        return np.log(np.mean(np.square(loss, dtype="float64")))

    for weight, gradient in zip(weights, tape.gradient(total, weights)):
        values = []
        for step in (1e-2, -1e-2):
            weight.assign_add(step * tf.sign(gradient))
            values.append(log_mean_square())
            weight.assign_add(-step * tf.sign(gradient))
        difference = (values[0] - values[1]) / 2e-2
        assert np.sum(np.abs(gradient)) == pytest.approx(difference, rel=0.05, abs=1e-4)
