"""Likelihoods against sums over all values, closed forms and moments of samples."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kgen import likelihoods
from kgen.likelihoods import Bernoulli, GaussianLikelihood, LogisticMixture
from kgen.metrics import bits_per_dim

LEVELS = np.arange(256) * 2 / 255 - 1
SEED = tf.constant([1, 2])


def test_bernoulli_is_the_product_of_probabilities():
    p, x = np.array([[0.1, 0.7], [0.5, 0.99]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    logits = tf.constant(np.log(p / (1 - p)), tf.float32)
    expected = np.log([0.1 * 0.3, 0.5 * 0.99])
    np.testing.assert_allclose(
        Bernoulli().log_prob(logits, tf.constant(x, "float32")), expected, rtol=1e-5
    )
    np.testing.assert_allclose(Bernoulli().mean(logits), p, rtol=1e-5)
    drawn = Bernoulli().sample(tf.repeat(logits, 20000, axis=0), SEED).numpy()
    np.testing.assert_allclose(drawn.reshape(2, 20000, 2).mean(1), p, atol=0.015)


def test_gaussian_with_fixed_and_learned_scale():
    x, mean = np.array([[0.2, -0.3]]), np.array([[0.0, 0.5]])
    for std, parameters in (
        (0.3, mean),
        (None, np.concatenate([mean, np.full((1, 2), math.log(0.3))], -1)),
    ):
        likelihood = GaussianLikelihood(std)
        expected = sum(
            -0.5 * ((a - b) / 0.3) ** 2 - math.log(0.3 * math.sqrt(2 * math.pi))
            for a, b in zip(x[0], mean[0])
        )
        p = tf.constant(parameters, tf.float32)
        actual = likelihood.log_prob(p, tf.constant(x, tf.float32))
        # A learned log scale passes through a softplus far above its floor.
        np.testing.assert_allclose(actual, [expected], atol=0.02)
        assert parameters.shape[-1] == likelihood.parameter_channels(2)


@pytest.mark.parametrize("log_scale", [-12.0, -4.0, 0.0, 3.0])
def test_logistic_mixture_sums_to_one_over_all_grey_levels(log_scale):
    likelihood = LogisticMixture(3)
    parameters = tf.constant(
        [[0.3, -1.0, 0.5, -1.2, 0.1, 0.9, log_scale, log_scale, log_scale + 1]] * 256, tf.float32
    )
    x = tf.constant(LEVELS[:, None], tf.float32)
    log_p = likelihood.log_prob(parameters, x).numpy().astype("float64")
    assert np.isfinite(log_p).all()
    assert np.exp(log_p).sum() == pytest.approx(1, abs=1e-4)
    levels = likelihood.sample(tf.repeat(parameters[:1], 40000, axis=0), SEED).numpy()
    nearest = np.round((levels[:, 0] + 1) * 127.5)
    np.testing.assert_allclose(levels[:, 0], nearest * 2 / 255 - 1, atol=1e-6)
    expected = np.exp(log_p) @ LEVELS
    assert levels.mean() == pytest.approx(expected, abs=0.02)
    assert likelihood.mean(parameters[:1]).numpy() == pytest.approx(expected, abs=2e-3)


def test_logistic_mixture_expects_nothing_beyond_its_range():
    """Means far outside are in the first and last bins: the expected value is that of the ends."""
    raw = float(np.log(np.expm1(4.0)) - 4)  # a scale of exp(-3)
    parameters = tf.constant([[0.0, 0.0, -5.0, 1.0, raw, raw]])
    levels = LogisticMixture(2).log_prob(
        tf.repeat(parameters, 256, axis=0), tf.constant(LEVELS[:, None], tf.float32)
    )
    expected = np.exp(levels) @ LEVELS
    assert abs(expected) < 0.1  # -1 and nearly 1, evenly
    assert LogisticMixture(2).mean(parameters).numpy() == pytest.approx(expected, abs=1e-3)


def test_logistic_mixture_channels_are_independent_within_a_component():
    likelihood = LogisticMixture(1)
    grey = tf.constant([[0.0, 0.2, -1.0]], tf.float32)
    rgb = tf.constant([[0.0, 0.2, 0.2, 0.2, -1.0, -1.0, -1.0]], tf.float32)
    one = likelihood.log_prob(grey, tf.constant([[LEVELS[100]]], tf.float32))
    three = likelihood.log_prob(rgb, tf.constant([[LEVELS[100]] * 3], tf.float32))
    np.testing.assert_allclose(three, 3 * one, rtol=1e-5)


def test_uniform_noise_has_eight_bits_per_dimension():
    assert bits_per_dim(50 * math.log(256), 50) == pytest.approx(8)
    # the density 1/2 of uniform values in [-1, 1], in bins of 2/255
    assert bits_per_dim(50 * math.log(2), 50, bin_width=2 / 255) == pytest.approx(math.log2(255))


@pytest.mark.parametrize("likelihood", [Bernoulli(), GaussianLikelihood(), LogisticMixture(2)])
def test_gradients_are_finite_far_out(likelihood):
    parameters = tf.Variable(
        tf.constant([[50.0, -50, 50, -50, 50, -50]])[:, : likelihood.parameter_channels(1)]
    )
    with tf.GradientTape() as tape:
        log_p = likelihood.log_prob(parameters, tf.constant([[likelihood.low]]))
    assert np.isfinite(tape.gradient(log_p, parameters).numpy()).all()


@pytest.mark.parametrize("value", ["bernouli", None, 3])
def test_get_lists_the_names(value):
    with pytest.raises(ValueError, match="`likelihood` must be one of"):
        likelihoods.get(value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianLikelihood(0.0), "`std` must be positive"),
        (lambda: LogisticMixture(0), "`components` must be at least 1"),
        (lambda: bits_per_dim(1.0, 0), "`dimensions` must be"),
        (lambda: bits_per_dim(1.0, 1, -1.0), "`bin_width` must be"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("likelihood", [Bernoulli(), GaussianLikelihood(), LogisticMixture(3)])
def test_what_is_missing_is_integrated_out(likelihood):
    """p(x_known): the sum over all values, or the integral, of what is missing."""
    channels = likelihood.parameter_channels(2)
    parameters = tf.constant(np.random.default_rng(0).normal(size=(1, channels)), tf.float32)
    if isinstance(likelihood, Bernoulli):
        values, width = np.array([0.0, 1.0]), 1.0
    elif isinstance(likelihood, LogisticMixture):
        values, width = LEVELS, 1.0
    else:
        values, width = np.linspace(-30, 30, 20001), 60 / 20000
    x = tf.constant(np.stack([np.full(len(values), values[-1]), values], -1), tf.float32)
    log_p = likelihood.log_prob(tf.repeat(parameters, len(values), axis=0), x).numpy()
    expected = np.log(np.exp(log_p.astype("float64")).sum() * width)
    for missing in (0.0, 0.7):
        given = tf.constant([[values[-1], missing]], tf.float32)
        known = likelihood.log_prob(parameters, given, tf.constant([[1, 0]]))
        np.testing.assert_allclose(known, [expected], rtol=1e-4)
    none = likelihood.log_prob(parameters, x[:1], tf.constant([[0, 0]]))
    np.testing.assert_allclose(none, [0.0], atol=1e-6)
