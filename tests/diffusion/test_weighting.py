import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import (
    CosineLogSNR,
    EDMLogSNR,
    FlowLogSNR,
    GaussianDiffusion,
    LinearBeta,
    LinearLogSNR,
    prediction,
    weighting,
)
from kgen.diffusion.times import sample_times


def error(log_snr):
    """Some squared error of eps that depends on the noise level."""
    return 1 / (1 + np.exp(-0.7 * log_snr + 0.4)) + 0.1


@pytest.mark.parametrize("name", ["elbo", "sigmoid"])
@pytest.mark.parametrize(
    "schedule",
    [LinearLogSNR(8.0, -8.0), CosineLogSNR(8.0, -8.0), LinearBeta(1, 9, "vp", 8.0, -8.0)],
    ids=repr,
)
def test_loss_does_not_depend_on_the_schedule(name, schedule):
    """The integral over time is one over the log-SNR, here with w written out in numpy."""
    level = np.linspace(8, -8, 4001)
    t = schedule.time(level).numpy()
    log_snr, slope = schedule.log_snr(t), schedule.slope(t)
    loss = weighting.error_factor(name, log_snr, slope) * error(log_snr.numpy())
    w = {"elbo": 1.0, "sigmoid": np.exp(2 - level) / (1 + np.exp(2 - level))}[name]
    expected = np.trapezoid(w * error(level), -level)
    np.testing.assert_allclose(np.trapezoid(loss, t), expected, rtol=1e-5)


def test_simple_and_min_snr_are_plain_means():
    """DDPM: E |eps - eps_hat|^2. Hang et al.: E min(SNR, 5) |x - x_hat|^2."""
    log_snr, slope = tf.constant([-3.0, 1.0, 1.7, 6.0]), tf.constant([-2.0, -30.0, -1.0, -0.1])
    snr = np.exp([-3.0, 1.0, 1.7, 6.0])
    np.testing.assert_array_equal(weighting.error_factor("simple", log_snr, slope), np.ones(4))
    for options, gamma in (({}, 5.0), ({"gamma": 2.0}, 2.0)):
        factor = weighting.error_factor("min_snr", log_snr, slope, **options)
        np.testing.assert_allclose(factor * snr, np.minimum(snr, gamma), rtol=1e-5)


def test_min_snr_has_the_published_weight_of_every_prediction():
    """Hang et al., section 3.4: min(SNR, g) of x, over SNR of eps, and over SNR + 1 of v."""
    log_snr = tf.constant([-6.0, 0.0, 1.5, 7.0], tf.float64)
    alpha, sigma = GaussianDiffusion(LinearLogSNR()).alpha_sigma_of(log_snr)
    factor = weighting.error_factor("min_snr", log_snr, -tf.ones_like(log_snr))
    snr = np.exp(log_snr)
    for kind, over in (("x", 1.0), ("eps", snr), ("v", snr + 1)):
        on_output = factor * prediction.error_scale(kind, alpha, sigma)
        np.testing.assert_allclose(on_output, np.minimum(snr, 5) / over)


def test_snr_plus_one_is_the_plain_mean_of_v_under_vp():
    """At the angle a, SNR = 1 / tan(a)^2, and an error of v is one of eps over cos(a)."""
    angle = np.array([0.2, 0.7, 1.3])
    log_snr = tf.constant(-2 * np.log(np.tan(angle)))
    factor = weighting.error_factor("snr_plus_one", log_snr, -tf.ones_like(log_snr))
    np.testing.assert_allclose(factor * np.cos(angle) ** 2, np.ones(3))


def test_flow_is_the_plain_mean_of_the_velocity():
    """x_hat is off by e sigma / alpha when eps_hat is off by -e: eps - x by e (1 + sigma/alpha)."""
    alpha, sigma = np.array([0.9, 0.4]), np.array([0.1, 0.6])
    log_snr = tf.constant(2 * np.log(alpha / sigma))
    factor = weighting.error_factor("flow", log_snr, -tf.ones_like(log_snr))
    np.testing.assert_allclose(factor, (1 + sigma / alpha) ** 2)


@pytest.mark.parametrize(
    ("kind", "process", "options"),
    [
        ("edm", GaussianDiffusion(EDMLogSNR(), "ve"), {}),
        ("edm", GaussianDiffusion(EDMLogSNR(), "ve"), {"mean": -0.4, "std": 1.0}),
        ("logit_normal", GaussianDiffusion(FlowLogSNR(20.0, -20.0), "flow"), {}),
        ("logit_normal", GaussianDiffusion(FlowLogSNR(20.0, -20.0), "flow"), {"mean": 0.5}),
    ],
)
def test_a_published_density_of_times_is_a_weighting(kind, process, options):
    """Over its own times nothing is left but the published factor on the error of x or of u.

    lambda(sigma) = (sigma^2 + d^2) / (sigma d)^2, and an error of x is sigma / alpha times one of
    eps; an error of u = eps - x is one of eps over alpha, since z = x + sigma u.
    """
    times = {"edm": "log_normal", "logit_normal": "logit_normal"}[kind]
    t, density = sample_times(times, process, 400, [3, 4], **options)
    log_snr, slope = process.log_snr(t), process.schedule.slope(t)
    factor = weighting.error_factor(kind, log_snr, slope, **options) / density
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(t))
    if kind == "edm":
        published = (sigma**2 + 0.25) / (sigma * 0.5) ** 2 * sigma**2
    else:
        published = 1 / alpha**2
    # The ends of the schedule cut off a little of the density.
    np.testing.assert_allclose(factor, published, rtol=0.01)


def test_sigmoid_is_half_at_its_bias():
    log_snr, slope = tf.constant([2.0, -3.0]), tf.constant([-1.0, -1.0])
    assert weighting.weight("sigmoid", log_snr, slope).numpy()[0] == 0.5
    assert weighting.weight("sigmoid", log_snr, slope, bias=-3.0).numpy()[1] == 0.5


@pytest.mark.parametrize("name", sorted(weighting.WEIGHTINGS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_are_finite_and_of_the_dtype(name, dtype):
    log_snr, slope = tf.constant([-15.0, 0, 15], dtype), tf.constant([-1e4, -1, -1e-3], dtype)
    weight = weighting.weight(name, log_snr, slope)
    assert weight.dtype == dtype
    assert np.isfinite(weight).all()
    assert (weight.numpy() > 0).all()
    np.testing.assert_allclose(weight * -slope, weighting.error_factor(name, log_snr, slope))


def test_unknown_weighting():
    with pytest.raises(ValueError, match=r"`weighting` must be one of \['edm', 'edm_unit', 'elbo'"):
        weighting.weight("p2", tf.zeros([1]), -tf.ones([1]))
