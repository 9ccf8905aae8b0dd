import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen import gaussian
from kgen.diffusion import (
    CosineLogSNR,
    EDMLogSNR,
    FlowLogSNR,
    GaussianDiffusion,
    LinearBeta,
    LinearLogSNR,
)

SCALINGS = ["vp", "ve", "sub_vp", "flow"]
every_scaling = pytest.mark.parametrize("scaling", SCALINGS)
DEFINITIONS = {
    "vp": lambda alpha, sigma: alpha**2 + sigma**2,
    "ve": lambda alpha, sigma: alpha,
    "sub_vp": lambda alpha, sigma: alpha**2 + sigma,
    "flow": lambda alpha, sigma: alpha + sigma,
}


@every_scaling
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaling_has_its_definition_and_its_log_snr(scaling, dtype):
    log_snr = np.linspace(-30, 30, 61).astype(dtype)
    alpha, sigma = GaussianDiffusion(LinearLogSNR(), scaling).alpha_sigma_of(log_snr)
    assert alpha.dtype == sigma.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(2 * np.log(alpha / sigma), log_snr, atol=tolerance)
    np.testing.assert_allclose(DEFINITIONS[scaling](alpha, sigma), np.ones(61), rtol=tolerance)


@every_scaling
@pytest.mark.parametrize("kind", ["cosine", "linear_beta"])
def test_drift_and_diffusion_move_mean_and_variance(scaling, kind):
    """dz = f z dt + g dw has d mean / dt = f mean and d var / dt = 2 f var + g^2."""
    schedule = CosineLogSNR(8.0, -8.0)
    if kind == "linear_beta":
        schedule = LinearBeta(0.5, 12.0, "sub_vp" if scaling == "sub_vp" else "vp")
    process = GaussianDiffusion(schedule, scaling)
    t, step = np.linspace(0.05, 0.95, 19), 1e-6
    (alpha_low, sigma_low), (alpha_high, sigma_high) = (
        process.alpha_sigma(t - step),
        process.alpha_sigma(t + step),
    )
    alpha, sigma = process.alpha_sigma(t)
    drift, diffusion = process.drift(t), process.diffusion_coefficient(t)
    np.testing.assert_allclose(drift * alpha, (alpha_high - alpha_low) / (2 * step), atol=1e-8)
    growth = (sigma_high**2 - sigma_low**2) / (2 * step)
    np.testing.assert_allclose(2 * drift * sigma**2 + diffusion**2, growth, rtol=1e-6, atol=1e-8)


@every_scaling
def test_transition_after_marginal_is_marginal(scaling):
    process = GaussianDiffusion(CosineLogSNR(), scaling)
    x = np.random.default_rng(0).normal(size=(6, 3))
    s, t = np.linspace(0, 0.9, 6), np.linspace(0.02, 1, 6)
    early, late = process.marginal(x, s), process.marginal(x, t)
    step = process.transition(early.mean, s, t)
    np.testing.assert_allclose(step.mean, late.mean, rtol=1e-9)
    factor = process.transition(tf.ones_like(x), s, t).mean
    np.testing.assert_allclose(step.std**2 + factor**2 * early.std**2, late.std**2 + 0 * factor)


@every_scaling
def test_posterior_is_bayes_rule_on_a_grid(scaling):
    process = GaussianDiffusion(LinearLogSNR(4.0, -4.0), scaling)
    x, z_t, s, t = 0.4, -1.3, 0.35, 0.6
    alpha_s, sigma_s = (v.numpy() for v in process.alpha_sigma(tf.constant(s, tf.float64)))
    alpha_t, sigma_t = (v.numpy() for v in process.alpha_sigma(tf.constant(t, tf.float64)))
    ratio = alpha_t / alpha_s
    grid = alpha_s * x + sigma_s * np.linspace(-12, 12, 20001)
    log_prior = -((grid - alpha_s * x) ** 2) / (2 * sigma_s**2)
    variance = sigma_t**2 - ratio**2 * sigma_s**2
    log_likelihood = -((z_t - ratio * grid) ** 2) / (2 * variance)
    weights = np.exp(log_prior + log_likelihood)
    weights /= weights.sum()
    mean = (weights * grid).sum()
    std = np.sqrt((weights * (grid - mean) ** 2).sum())
    posterior = process.posterior(np.array([[z_t]]), np.array([[x]]), s, t)
    np.testing.assert_allclose(posterior.mean, [[mean]], rtol=1e-6)
    np.testing.assert_allclose(posterior.std, std, rtol=1e-6)


@every_scaling
def test_score_is_the_gradient_of_log_density(scaling, mixture_data):
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)
    z = np.random.default_rng(2).normal(size=(7, 2))
    denoise = mixture_data.denoise(process)
    for t in (0.2, 0.5, 0.8):
        alpha, sigma = (v.numpy() for v in process.alpha_sigma(tf.constant(t, tf.float64)))
        score = process.score(z, denoise(tf.constant(z), tf.constant(t, tf.float64)), t)
        np.testing.assert_allclose(score, mixture_data.score(z, alpha, sigma), atol=1e-6)


@pytest.mark.parametrize(
    ("scaling", "variance"),
    [("vp", 1.0), ("ve", 10.0), ("flow", 10 / 16), ("sub_vp", None)],
)
def test_prior_has_the_variance_of_unit_data_at_time_one(scaling, variance):
    """At SNR 1/9 the noise is three times the signal: VE (1, 3), flow (1/4, 3/4)."""
    process = GaussianDiffusion(LinearLogSNR(3.0, -np.log(9.0)), scaling)
    if variance is None:
        alpha = max(np.roots([1.0, 3.0, -1.0]))
        variance = 10 * alpha**2
    prior = process.prior([4, 3])
    assert prior.mean.shape == (4, 3)
    np.testing.assert_allclose(prior.mean, np.zeros((4, 3)))
    np.testing.assert_allclose(prior.std**2, variance, rtol=1e-6)
    assert process.prior(tf.zeros([2, 5], tf.float64)).mean.dtype == tf.float64
    assert process.prior(tf.constant([2, 5])).mean.shape == (2, 5)


def test_a_batch_of_times_is_one_time_for_each_example():
    process = GaussianDiffusion(CosineLogSNR(), "flow")
    x = tf.random.stateless_normal([3, 4, 4, 2], [1, 2])
    t, s = tf.constant([0.2, 0.5, 0.9]), tf.constant([0.1, 0.3, 0.2])
    together = [
        process.marginal(x, t).kl(gaussian.standard_normal(x)),
        process.transition(x, s, t).kl(gaussian.standard_normal(x)),
        process.posterior(x, x, s, t).kl(gaussian.standard_normal(x)),
    ]
    for i in range(3):
        one, si, ti = x[i : i + 1], float(s[i]), float(t[i])
        alone = [
            process.marginal(one, ti).kl(gaussian.standard_normal(one)),
            process.transition(one, si, ti).kl(gaussian.standard_normal(one)),
            process.posterior(one, one, si, ti).kl(gaussian.standard_normal(one)),
        ]
        for batch, single in zip(together, alone, strict=True):
            np.testing.assert_allclose(batch[i], single[0], rtol=1e-5)


def test_half_precision_is_promoted():
    process = GaussianDiffusion(CosineLogSNR())
    x = tf.ones([2, 3], tf.bfloat16)
    q = process.marginal(x, tf.constant([0.001, 0.5]))
    assert q.mean.dtype == q.log_std.dtype == tf.float32
    assert process.score(x, x, 0.5).dtype == tf.float32
    assert process.prior(x).mean.dtype == tf.float32


@every_scaling
def test_saves_through_keras(scaling):
    process = GaussianDiffusion(LinearLogSNR(9.0, -8.0), scaling)
    config = keras.saving.serialize_keras_object(process)
    assert keras.saving.deserialize_keras_object(config) == process


@pytest.mark.parametrize(
    ("schedule", "scaling"),
    [
        (CosineLogSNR(), "vp"),
        (LinearBeta(), "vp"),
        (LinearBeta(scaling="sub_vp"), "sub_vp"),
        (FlowLogSNR(), "flow"),
        (EDMLogSNR(), "ve"),
    ],
    ids=repr,
)
def test_a_schedule_brings_its_scaling(schedule, scaling):
    process = GaussianDiffusion(schedule)
    assert process == GaussianDiffusion(schedule, scaling)
    config = keras.saving.serialize_keras_object(process)
    assert keras.saving.deserialize_keras_object(config) == process


@pytest.mark.parametrize(("own", "other"), [("vp", "sub_vp"), ("sub_vp", "vp")])
def test_the_log_snr_of_one_equation_is_not_seen_through_the_other(own, other):
    with pytest.raises(ValueError, match=f"`scaling` must be None or '{own}' for .*='{other}'"):
        GaussianDiffusion(LinearBeta(scaling=own), other)
    assert GaussianDiffusion(LinearBeta(scaling=own), "ve").scaling == "ve"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`scaling` must be one of"):
        GaussianDiffusion(CosineLogSNR(), "edm")
    with pytest.raises(TypeError, match="`schedule` must be a NoiseSchedule"):
        GaussianDiffusion("cosine")
