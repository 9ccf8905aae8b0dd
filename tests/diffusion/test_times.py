import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import (
    BoundSteps,
    CosineLogSNR,
    EDMLogSNR,
    GaussianDiffusion,
    LinearBeta,
    LinearLogSNR,
    NoiseLevels,
    sample_times,
    time_grid,
)
from kgen.diffusion.times import TIME_SAMPLERS, draw_noise_levels

COSINE = GaussianDiffusion(CosineLogSNR())
PROCESSES = [COSINE, GaussianDiffusion(LinearBeta(), "ve")]
every_sampler = pytest.mark.parametrize("kind", sorted(TIME_SAMPLERS))
every_process = pytest.mark.parametrize("process", PROCESSES, ids=repr)


@every_sampler
def test_estimates_an_integral_without_bias(kind):
    """The mean of t^2 (1 - t) / p(t) is 1/12."""
    t, density = (v.numpy().astype("float64") for v in sample_times(kind, COSINE, 40000, [3, 4]))
    assert t.shape == density.shape == (40000,)
    assert (t >= 0).all()
    assert (t <= 1).all()
    values = t**2 * (1 - t) / density
    assert abs(values.mean() - 1 / 12) < 4 * values.std() / 200


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("uniform", {}),
        ("stratified", {}),
        ("logit_normal", {}),
        ("logit_normal", {"mean": -0.5, "std": 0.7}),
        ("importance", {}),
        ("cosine", {}),
        ("log_normal", {}),
        ("log_normal", {"mean": 0.4, "std": 3.0}),
    ],
)
def test_density_is_that_of_the_times(kind, options):
    """Its integral up to t is the share of the draws below t."""
    drawn = sample_times(kind, COSINE, 20000, [5, 6], **options)
    t, density = (v.numpy().astype("float64") for v in drawn)
    order = np.argsort(t)
    t, density = t[order], density[order]
    integral = np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(t))
    share = np.arange(1, len(t)) / len(t)
    assert np.abs(integral - share).max() < 0.03


def test_stratified_puts_one_time_in_each_bin():
    for seed in range(5):
        t, _ = sample_times("stratified", COSINE, 64, [seed, 0])
        assert sorted(np.floor(t.numpy() * 64 - (t.numpy() * 64).min() + 1e-3)) == list(range(64))
    means = [
        sample_times("stratified", COSINE, 64, [seed, 0])[0].numpy().mean() for seed in range(20)
    ]
    assert statistics.stdev(means) < 0.2 * (1 / 12 / 64) ** 0.5


@pytest.mark.parametrize("kind", ["stratified", "importance", "cosine", "log_normal"])
def test_a_part_of_a_sorted_batch_has_all_times(kind):
    """Half of the strata in random order: variance 1/12 / 32 (1 - 32/64) of the mean of its ranks.

    In the order of the batch the half would be an interval that turns with u, of variance 1/48.
    """
    means = []
    for seed in range(200):
        t, _ = sample_times(kind, COSINE, 64, [seed, 0])
        means.append(np.argsort(np.argsort(t))[:32].mean() / 64)
    assert statistics.variance(means) == pytest.approx(1 / 12 / 64, rel=0.4)


def test_logit_normal_has_its_moments():
    t, _ = sample_times("logit_normal", COSINE, 20000, [1, 1], mean=-0.5, std=0.7)
    logit = np.log(t / (1 - t))
    np.testing.assert_allclose([logit.mean(), logit.std()], [-0.5, 0.7], atol=0.02)


def test_importance_is_even_in_the_log_snr():
    """So -dl/dt over the density is one number: the range, here 30."""
    t, density = sample_times("importance", COSINE, 5000, [1, 1])
    np.testing.assert_allclose(-COSINE.schedule.slope(t) / density, 30.0, rtol=1e-4)
    share = (np.sort(COSINE.log_snr(t)) + 15) / 30
    np.testing.assert_allclose(share, np.linspace(0, 1, 5000), atol=1e-3)


def test_cosine_is_even_in_the_angle_of_every_schedule():
    """The t of the cosine schedule is the angle; another schedule draws the same log-SNR."""
    t, density = sample_times("cosine", COSINE, 5000, [1, 1])
    np.testing.assert_allclose(np.sort(t), (np.arange(5000) + 0.5) / 5000, atol=2e-4)
    np.testing.assert_allclose(density, 1, rtol=1e-3)
    process = GaussianDiffusion(LinearLogSNR(9.0, -5.0))
    t, density = sample_times("cosine", process, 5000, [1, 1])
    alpha, sigma = process.alpha_sigma(t)
    start, end = (np.arctan(np.exp(log_snr / 2)) for log_snr in (-9.0, 5.0))
    angle = np.arctan2(sigma, alpha)
    expected = start + (end - start) * (np.arange(5000) + 0.5) / 5000
    np.testing.assert_allclose(np.sort(angle), expected, atol=4e-4)
    # 14 is -dl/dt, and |da/dl| = alpha sigma / 2.
    np.testing.assert_allclose(density, 14 * alpha * sigma / 2 / (end - start), rtol=1e-3)


def test_log_normal_has_its_moments():
    """Karras et al.: log sigma ~ N(-1.2, 1.2^2), of which hardly anything is beyond the ends."""
    t, _ = sample_times("log_normal", COSINE, 20000, [1, 1])
    log_sigma = -COSINE.log_snr(t).numpy() / 2
    np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.2], atol=0.02)


@every_sampler
def test_seed_decides(kind):
    one, same, other = (sample_times(kind, COSINE, 8, seed)[0] for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@every_process
@pytest.mark.parametrize("kind", ["log_snr", "t", "karras"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_grid_falls_from_one_to_zero(process, kind, dtype):
    for num_steps in (1, 2, 250):
        times = time_grid(process, num_steps, kind=kind, dtype=dtype).numpy()
        assert times.dtype == dtype
        assert len(times) == num_steps + 1
        assert times[0] == 1
        assert times[-1] == 0
        assert (np.diff(times) < 0).all()


@every_process
def test_grid_is_equidistant_in_its_coordinate(process):
    levels = process.log_snr(time_grid(process, 10, "log_snr", "float64"))
    np.testing.assert_allclose(np.diff(levels), np.full(10, (levels[-1] - levels[0]) / 10))
    np.testing.assert_allclose(time_grid(process, 10, "t"), np.linspace(1, 0, 11), atol=1e-6)


@every_process
@pytest.mark.parametrize("rho", [7.0, 3.0])
def test_karras_grid_is_that_of_the_paper(process, rho):
    low, high = (np.exp(-process.log_snr(tf.constant(t, tf.float64)) / 2) for t in (0.0, 1.0))
    steps = np.arange(9) / 8
    sigma = (high ** (1 / rho) + steps * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    times = time_grid(process, 8, "karras", "float64", rho=rho)
    np.testing.assert_allclose(np.exp(-process.log_snr(times) / 2), sigma, rtol=1e-6)


def test_karras_grid_has_the_published_density_of_steps():
    """Steps lie as densely as sigma^(1 / rho - 1): here as a quadrature, linear for rho = 1."""
    process = GaussianDiffusion(EDMLogSNR(0.002, 80.0, rho=3.0), "ve")
    for rho in (1.0, 7.0):
        times = time_grid(process, 17, "karras", "float64", rho=rho)
        levels = np.exp(-process.log_snr(times) / 2)
        axis = np.linspace(np.log(0.002), np.log(80.0), 200001)
        density = np.exp(axis / rho)  # of d log sigma
        below = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
        share = np.interp(np.log(levels), axis, below / below[-1])
        np.testing.assert_allclose(share, np.linspace(1, 0, 18), atol=1e-6)


@every_process
@pytest.mark.parametrize("kind", ["log_snr", "t", "karras"])
def test_a_later_start_walks_the_rest_of_the_way(process, kind):
    """From a time of the whole grid, the same grid from there."""
    whole = time_grid(process, 10, kind=kind, dtype="float64")
    rest = time_grid(process, 6, kind=kind, dtype="float64", start=whole[4])
    np.testing.assert_allclose(rest, whole[4:], atol=1e-9)


@pytest.mark.parametrize("kind", ["log_snr", "t", "karras"])
def test_one_trace_serves_every_number_of_steps(kind):
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def grid(num_steps):
        traces.append(1)
        return time_grid(COSINE, num_steps, kind=kind)

    for num_steps in (1, 7, 2):
        expected = time_grid(COSINE, num_steps, kind=kind)
        np.testing.assert_allclose(grid(num_steps), expected, atol=1e-6)
    assert len(traces) == 1


def test_unknown_kinds():
    with pytest.raises(ValueError, match=r"`kind` must be one of \['cosine', 'importance'"):
        sample_times("linear", COSINE, 3, [0, 0])
    with pytest.raises(ValueError, match=r"`kind` must be one of \['karras', 'log_snr', 't'\]"):
        time_grid(COSINE, 3, kind="quadratic")


@every_sampler
@every_process
def test_noise_levels_are_those_of_the_times(kind, process):
    t, density = sample_times(kind, process, 50, [3, 4])
    log_snr, slope, drawn = draw_noise_levels(kind, process, 50, [3, 4])
    np.testing.assert_array_equal(drawn, density)
    t = t.numpy().astype("float64")
    exact = process.log_snr(tf.constant(t))
    # Two float32 roundings of t are worth about this many log-SNRs near its ends.
    np.testing.assert_allclose(log_snr, exact, atol=1e-6 * np.abs(slope).max() + 1e-4)
    step = 1e-7 * np.minimum(t, 1 - t) + 1e-12
    low, high = (process.log_snr(tf.constant(t + s * step)).numpy() for s in (-1, 1))
    np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=5e-3)


def test_steps_of_a_bound_are_drawn_evenly():
    """T = 4 of a linear log-SNR from 8 to -4: each step is 3 wide, T expm1(3) = -slope."""
    process = GaussianDiffusion(LinearLogSNR(8.0, -4.0))
    log_snr, slope, density = draw_noise_levels(BoundSteps(4), process, 400, [3, 4])
    levels, counts = np.unique(np.round(log_snr, 4), return_counts=True)
    np.testing.assert_allclose(levels, [-4, -1, 2, 5])
    assert np.abs(counts - 100).max() <= 1  # strata
    np.testing.assert_allclose(slope, np.full(400, -4 * np.expm1(3.0)), rtol=1e-4)
    np.testing.assert_array_equal(density, np.ones(400))


def test_noise_levels_have_both_ends():
    process = GaussianDiffusion(LinearLogSNR(8.0, -4.0))
    log_snr, slope, density = draw_noise_levels(NoiseLevels(4), process, 400, [3, 4])
    levels, counts = np.unique(np.round(log_snr, 4), return_counts=True)
    np.testing.assert_allclose(levels, [-4, 0, 4, 8])
    assert np.abs(counts - 100).max() <= 1
    np.testing.assert_allclose(slope, np.full(400, -12.0), rtol=1e-5)
    np.testing.assert_array_equal(density, np.ones(400))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (BoundSteps, 0, "`num` must be at least 1"),
        (BoundSteps, 2.5, "`num` must be at least 1, an integer"),
        (NoiseLevels, 1, r"`num` must be in \[2, inf\)"),
    ],
)
def test_numbers_of_steps_and_levels_are_checked(make, value, message):
    with pytest.raises(ValueError, match=message):
        make(value)


@pytest.mark.parametrize("value", [BoundSteps(7), NoiseLevels(10)])
def test_steps_and_levels_are_saved(value):
    config = keras.saving.serialize_keras_object(value)
    assert keras.saving.deserialize_keras_object(config) == value
