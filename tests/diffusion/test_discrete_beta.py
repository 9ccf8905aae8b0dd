"""Published noise levels as a schedule in continuous time."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import NoiseSchedule
from kgen.diffusion.discrete_beta import DiscreteBeta, LevelIndex

SCHEDULES = [
    DiscreteBeta(),
    DiscreteBeta("linear", 1e-4, 0.02),
    DiscreteBeta("squaredcos"),
    DiscreteBeta(zero_terminal_snr=True),
    DiscreteBeta("linear", 1e-3, 0.1, num_levels=50),
]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


@every_schedule
def test_decreases_between_finite_ends(schedule):
    t = np.linspace(0, 1, 2 * schedule.num_levels - 1)
    log_snr = schedule.log_snr(t).numpy()
    assert (np.diff(log_snr) < 0).all()
    np.testing.assert_allclose(log_snr[[0, -1]], [schedule.log_snr_max, schedule.log_snr_min])


@every_schedule
def test_time_and_index_invert_log_snr(schedule):
    t = np.linspace(0, 1, 777)
    log_snr = schedule.log_snr(t)
    np.testing.assert_allclose(schedule.time(log_snr), t, atol=1e-9)
    index = schedule.index(log_snr)
    np.testing.assert_allclose(index, t * (schedule.num_levels - 1), atol=1e-7)


@every_schedule
def test_slope_is_the_finite_difference_inside_of_levels(schedule):
    steps = schedule.num_levels - 1
    t, step = (np.arange(0, steps, 7) + 0.4) / steps, 1e-8
    difference = (schedule.log_snr(t + step) - schedule.log_snr(t - step)) / (2 * step)
    np.testing.assert_allclose(schedule.slope(t), difference, rtol=1e-4)
    np.testing.assert_allclose(NoiseSchedule.slope(schedule, t), difference, rtol=1e-4)


def test_levels_are_the_products_of_rates():
    """sigma / alpha of the table by a plain product; the published sigmas of the two ends."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    expected = np.sqrt((1 - kept) / kept)
    t = np.arange(1000) / 999
    np.testing.assert_allclose(tf.exp(-DiscreteBeta().log_snr(t) / 2), expected, rtol=2e-5)
    # As the published code prints them.
    ends = [0.02916753478348255, 14.614646911621094]
    np.testing.assert_allclose(DiscreteBeta().ratios[[0, -1]], ends, rtol=1e-6)


def test_cosine_levels():
    u = np.arange(1001) / 1000
    kept = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    # A product of ratios; only the last rates are cut at 0.999.
    expected = (kept / kept[0])[1:-1]
    snr = np.exp(DiscreteBeta("squaredcos").log_snr(np.arange(999) / 999))
    np.testing.assert_allclose(snr, expected / (1 - expected), rtol=2e-3)


def test_between_levels_the_ratio_is_linear():
    schedule = DiscreteBeta()
    log_snr = schedule.log_snr(np.array([500, 500.25, 501]) / 999)
    low, middle, high = np.exp(-log_snr / 2)
    np.testing.assert_allclose(middle, 0.75 * low + 0.25 * high, rtol=1e-9)


def test_zero_terminal_snr_keeps_the_first_level_and_loses_the_last():
    """Lin et al., algorithm 1."""
    plain, schedule = DiscreteBeta(), DiscreteBeta(zero_terminal_snr=True)
    root = 1 / np.sqrt(1 + plain.ratios**2)
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(1 / np.sqrt(1 + schedule.ratios**2)[:-1], expected[:-1], rtol=1e-9)
    assert 1 / np.sqrt(1 + schedule.ratios[-1] ** 2) < 1e-9


@every_schedule
def test_float32_tells_the_network_whole_levels(schedule):
    """The index of every level, through a float32 time and a float32 log-SNR."""
    levels = np.arange(schedule.num_levels)
    t = (levels / (schedule.num_levels - 1)).astype("float32")
    index = LevelIndex(schedule)(schedule.log_snr(t))
    np.testing.assert_array_equal(index, levels)


@every_schedule
def test_saving_and_graphs(schedule):
    config = keras.saving.serialize_keras_object(LevelIndex(schedule, rounding=True))
    assert keras.saving.deserialize_keras_object(config) == LevelIndex(schedule, rounding=True)
    assert schedule.log_snr(1).shape == schedule.slope(1).shape == ()
    t = tf.constant([0.1, 0.7])
    compiled = tf.function(schedule.log_snr, input_signature=[tf.TensorSpec([None])])
    np.testing.assert_array_equal(compiled(t), schedule.log_snr(t))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "sigmoid"}, "`kind` must be one of"),
        ({"beta_start": 0.0}, "`beta_start` must be in"),
        ({"beta_end": 1.0}, "`beta_end` must be in"),
        ({"beta_start": 0.5, "beta_end": 0.1}, "`beta_start` must be at most"),
        ({"num_levels": 1}, "`num_levels` must be in"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DiscreteBeta(**arguments)
