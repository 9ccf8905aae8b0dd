import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import (
    CosineLogSNR,
    EDMLogSNR,
    FlowLogSNR,
    GaussianDiffusion,
    LearnedLogSNR,
    LinearBeta,
    LinearLogSNR,
    NoiseSchedule,
    PolynomialLogSNR,
)

SCHEDULES = [
    LinearLogSNR(9.0, -7.0),
    CosineLogSNR(),
    CosineLogSNR(10.0, -12.0, shift=-2.0),
    LinearBeta(),
    LinearBeta(0.1, 20.0, scaling="sub_vp"),
    LinearBeta(0.0, 14.0, log_snr_max=11.0, log_snr_min=-6.0),
    PolynomialLogSNR(),
    PolynomialLogSNR(3.0, 8.0, -12.0),
    FlowLogSNR(),
    FlowLogSNR(12.0, -11.0, shift=3.0),
    EDMLogSNR(),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@every_schedule
def test_decreases_between_finite_ends(schedule):
    t = np.linspace(0, 1, 1001)
    log_snr = schedule.log_snr(t).numpy()
    assert (np.diff(log_snr) < 0).all()
    np.testing.assert_allclose(log_snr[0], schedule.log_snr_max, rtol=1e-9)
    if schedule.log_snr_min is not None:
        np.testing.assert_allclose(log_snr[-1], schedule.log_snr_min, rtol=1e-9)


@every_schedule
def test_float32_keeps_the_digits_at_both_ends(schedule):
    t = np.concatenate([np.geomspace(1e-6, 0.5, 50), 1 - np.geomspace(0.5, 1e-4, 50), [0.0, 1.0]])
    t = t.astype("float32")
    for function in (schedule.log_snr, schedule.slope):
        single, double = function(t).numpy(), function(t.astype("float64")).numpy()
        assert single.dtype == np.float32
        assert double.dtype == np.float64
        assert np.isfinite(single).all()
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


@every_schedule
def test_time_inverts_log_snr(schedule):
    t = np.linspace(0, 1, 101)
    np.testing.assert_allclose(schedule.time(schedule.log_snr(t)), t, atol=1e-9)


@every_schedule
def test_slope_is_the_finite_difference(schedule):
    t, step = np.linspace(0.02, 0.98, 49), 1e-6
    difference = (schedule.log_snr(t + step) - schedule.log_snr(t - step)) / (2 * step)
    np.testing.assert_allclose(schedule.slope(t), difference, rtol=1e-6)
    np.testing.assert_allclose(NoiseSchedule.slope(schedule, t), difference, rtol=1e-6)


@every_schedule
def test_scalar_times_and_saving(schedule):
    assert schedule.log_snr(1).shape == schedule.slope(1).shape == ()
    config = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(config) == schedule


def test_cosine_has_the_published_signal():
    """alpha = cos(pi t / 2) when the ends are so far out that the clock is not rescaled."""
    t = np.linspace(0.05, 0.95, 19)
    alpha_squared = tf.sigmoid(CosineLogSNR(40.0, -40.0).log_snr(t))
    np.testing.assert_allclose(alpha_squared, np.cos(np.pi * t / 2) ** 2, rtol=1e-6)


def test_shift_lowers_the_resolution_not_the_ends():
    plain, shifted = CosineLogSNR(40.0, -40.0), CosineLogSNR(40.0, -40.0, shift=2 * math.log(1 / 4))
    t = np.linspace(0.1, 0.9, 9)
    difference = shifted.log_snr(t) - plain.log_snr(t)
    np.testing.assert_allclose(difference, np.full(9, -2.7725887), rtol=1e-5)


@pytest.mark.parametrize("scaling", ["vp", "sub_vp"])
def test_linear_beta_is_songs_process(scaling):
    """Song's alpha and sigma, from a numerical integral of beta."""
    schedule = LinearBeta(0.3, 12.0, scaling=scaling, log_snr_max=60.0)
    clock = np.linspace(0, 1, 10001)
    rate = 0.3 + (12.0 - 0.3) * clock
    integral = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(clock))])
    alpha, sigma = np.exp(-integral / 2), np.sqrt(1 - np.exp(-integral))
    if scaling == "sub_vp":
        sigma = sigma**2
    at = slice(1000, None, 1000)
    expected = 2 * np.log(alpha[at] / sigma[at])
    np.testing.assert_allclose(schedule.log_snr(clock[at]), expected, rtol=1e-6)


def test_polynomial_has_the_published_signal():
    """alpha = 1 - t^2 when the ends are far out."""
    t = np.linspace(0.05, 0.95, 19)
    log_snr = PolynomialLogSNR(2.0, 60.0, -60.0).log_snr(t)
    np.testing.assert_allclose(tf.sqrt(tf.sigmoid(log_snr)), 1 - t**2, rtol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_a_straight_line(shift):
    """sigma / alpha = shift t / (1 - t), and alpha + sigma = 1."""
    t = np.linspace(0.05, 0.95, 19)
    process = GaussianDiffusion(FlowLogSNR(60.0, -60.0, shift), "flow")
    alpha, sigma = process.alpha_sigma(t)
    np.testing.assert_allclose(sigma / alpha, shift * t / (1 - t), rtol=1e-6)
    if shift == 1:
        np.testing.assert_allclose(sigma, t, rtol=1e-6)


def test_edm_has_the_noise_levels_of_the_paper():
    """Eq. 5 backwards: N = 18 levels of the paper's sampler are the times 1 - i/17."""
    i = np.arange(18)
    levels = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(tf.exp(-EDMLogSNR().log_snr(1 - i / 17) / 2), levels, rtol=1e-9)


def learned(seed):
    """A learned schedule with weights far from those at the start."""
    schedule, rng = LearnedLogSNR(9.0, -7.0), np.random.default_rng(seed)
    for v in schedule.trainable_variables:
        v.assign(v + 2 * rng.normal(size=v.shape))
    return schedule


@pytest.mark.parametrize("seed", range(3))
def test_learned_is_monotone_with_exact_ends_whatever_its_weights(seed):
    schedule = learned(seed)
    t = np.linspace(0, 1, 1001)
    log_snr = schedule.log_snr(t).numpy()
    assert (np.diff(log_snr) < 0).all()
    np.testing.assert_allclose(log_snr[[0, -1]], [9.0, -7.0], rtol=1e-9)
    np.testing.assert_allclose(schedule.time(log_snr[::50]), t[::50], atol=1e-9)
    step, middle = 1e-6, t[1:-1:20]
    difference = (schedule.log_snr(middle + step) - schedule.log_snr(middle - step)) / (2 * step)
    np.testing.assert_allclose(schedule.slope(middle), difference, rtol=1e-5)
    np.testing.assert_allclose(schedule.log_snr(t.astype("float32")), log_snr, atol=1e-4)


def test_learned_starts_nearly_linear_and_saves():
    t = np.linspace(0, 1, 21)
    plain = LearnedLogSNR(9.0, -7.0)
    np.testing.assert_allclose(plain.log_snr(t), LinearLogSNR(9.0, -7.0).log_snr(t), atol=1.0)
    schedule = learned(0)
    config = keras.saving.serialize_keras_object(GaussianDiffusion(schedule))
    again = keras.saving.deserialize_keras_object(config).schedule
    again.set_weights(schedule.get_weights())
    np.testing.assert_array_equal(again.log_snr(t), schedule.log_snr(t))


@pytest.mark.parametrize(
    "make",
    [
        LinearLogSNR,
        CosineLogSNR,
        FlowLogSNR,
        LearnedLogSNR,
        lambda a, b: PolynomialLogSNR(2.0, a, b),
        lambda a, b: LinearBeta(1, 2, "vp", a, b),
    ],
)
@pytest.mark.parametrize("ends", [(-3.0, 3.0), (3.0, 3.0), (math.inf, 0.0), (1.0, -math.inf)])
def test_ends_must_be_finite_and_ordered(make, ends):
    with pytest.raises(ValueError, match="`log_snr_(max|min)` must be (greater|finite)"):
        make(*ends)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolynomialLogSNR(0.0), "`power` must be positive"),
        (lambda: FlowLogSNR(shift=-1.0), "`shift` must be positive"),
        (lambda: EDMLogSNR(2.0, 1.0), "`sigma_min` must be less than `sigma_max`"),
        (lambda: EDMLogSNR(rho=0.0), "`rho` must be positive"),
        (lambda: LearnedLogSNR(width=0), "`width` must be at least 1"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_linear_beta_checks_its_arguments():
    with pytest.raises(ValueError, match="`scaling` must be one of"):
        LinearBeta(scaling="ve")
    with pytest.raises(ValueError, match="`beta_min` must be at most `beta_max`"):
        LinearBeta(3.0, 2.0)
    with pytest.raises(ValueError, match="`log_snr_max` must be greater"):
        LinearBeta(0.1, 20.0, log_snr_max=-11.0)
