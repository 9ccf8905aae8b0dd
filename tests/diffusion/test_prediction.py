import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import GaussianDiffusion, LinearLogSNR, prediction

TYPES = sorted(prediction.PREDICTION_TYPES)
every_type = pytest.mark.parametrize("kind", TYPES)
every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
LOG_SNR = np.linspace(-15, 15, 13)


def noisy(scaling, dtype):
    rng = np.random.default_rng(0)
    x, eps = rng.normal(size=(2, 13, 5)).astype(dtype)
    process = GaussianDiffusion(LinearLogSNR(15.0, -15.0), scaling)
    alpha, sigma = (v.numpy()[:, None] for v in process.alpha_sigma_of(LOG_SNR.astype(dtype)))
    return x, eps, alpha, sigma, alpha * x + sigma * eps


@every_type
@every_scaling
def test_round_trip(kind, scaling):
    x, eps, alpha, sigma, z = noisy(scaling, "float64")
    output = prediction.target(kind, x, eps, alpha, sigma)
    np.testing.assert_allclose(prediction.to_x(kind, output, z, alpha, sigma), x, atol=1e-10)
    np.testing.assert_allclose(prediction.to_eps(kind, output, z, alpha, sigma), eps, atol=1e-10)


@every_type
@every_scaling
def test_round_trip_in_float32_loses_only_what_the_noise_hides(kind, scaling):
    x, eps, alpha, sigma, z = noisy(scaling, "float32")
    output = prediction.target(kind, x, eps, alpha, sigma)
    x_hat = prediction.to_x(kind, output, z, alpha, sigma)
    eps_hat = prediction.to_eps(kind, output, z, alpha, sigma)
    assert x_hat.dtype == eps_hat.dtype == np.float32
    assert (np.abs(x_hat - x) < 3e-6 * (1 + sigma / alpha)).all()
    assert (np.abs(eps_hat - eps) < 3e-6 * (1 + alpha / sigma)).all()


@every_type
@every_scaling
def test_error_scale_turns_an_output_error_into_a_noise_error(kind, scaling):
    x, eps, alpha, sigma, z = noisy(scaling, "float64")
    target = prediction.target(kind, x, eps, alpha, sigma)
    output = target + np.random.default_rng(1).normal(size=x.shape)
    eps_hat = (z - alpha * prediction.to_x(kind, output, z, alpha, sigma)) / sigma
    scale = prediction.error_scale(kind, alpha, sigma)
    np.testing.assert_allclose((eps - eps_hat) ** 2, scale * (output - target) ** 2, rtol=1e-5)


def test_rows_have_their_published_meaning():
    """The score is a gradient; v and flow are velocities, along the angle of VP and along time."""
    rng = np.random.default_rng(3)
    x, eps = tf.constant(rng.normal(size=(2, 4)))
    angle = tf.constant(0.7, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(angle)
        rotated = tf.unstack(tf.cos(angle) * x + tf.sin(angle) * eps)
        straight = tf.unstack((1 - angle) * x + angle * eps)
    alpha, sigma = tf.cos(angle), tf.sin(angle)
    velocity = tf.stack([tape.gradient(value, angle) for value in rotated])
    np.testing.assert_allclose(prediction.target("v", x, eps, alpha, sigma), velocity)
    velocity = tf.stack([tape.gradient(value, angle) for value in straight])
    np.testing.assert_allclose(prediction.target("flow", x, eps, 1 - angle, angle), velocity)
    z = alpha * x + sigma * eps
    with tf.GradientTape() as tape:
        tape.watch(z)
        log_prob = -tf.reduce_sum((z - alpha * x) ** 2) / (2 * sigma**2)
    score = tape.gradient(log_prob, z)
    np.testing.assert_allclose(prediction.target("score", x, eps, alpha, sigma), score)


def test_edm_is_its_published_preconditioning():
    """The row follows from c_skip and c_out of EDM's table 1 in VE, sigma_data = 1/2."""
    rng = np.random.default_rng(4)
    x, eps = rng.normal(size=(2, 7))
    for sigma in (0.02, 0.7, 40.0):
        output = prediction.target("edm", x, eps, 1.0, sigma)
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / np.sqrt(sigma**2 + 0.25)
        np.testing.assert_allclose(c_skip * (x + sigma * eps) + c_out * output, x)


def test_unknown_type():
    with pytest.raises(ValueError, match=r"`prediction` must be one of \['edm', 'edm_unit', 'eps'"):
        prediction.coefficients("epsilon", 1.0, 1.0)
