import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR, time_grid
from kgen.solvers import DDIM, DPMSolver, UniPC, solve

every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])


@every_scaling
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_first_order_is_ddim(scaling, num_steps, mixture_data):
    process = GaussianDiffusion(CosineLogSNR(), scaling)
    times = time_grid(process, num_steps, "t", "float64")
    z = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    dpm, ddim = (
        solve(solver, mixture_data.denoise(process), process, z, times)
        for solver in (DPMSolver(order=1), DDIM())
    )
    np.testing.assert_allclose(dpm, ddim, rtol=1e-9)


@every_scaling
@pytest.mark.parametrize("num_steps", [1, 2, 10])
def test_second_order_is_the_published_2m(scaling, num_steps, mixture_data):
    """Lu et al., algorithm 2, in numpy."""
    process = GaussianDiffusion(CosineLogSNR(5.0, -6.0), scaling)
    denoise = mixture_data.denoise(process)
    times = time_grid(process, num_steps, "t", "float64")
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(times))
    level = np.log(alpha / sigma)
    z = np.random.default_rng(0).normal(size=(5, 2))
    state, calls = z, []
    for i in range(1, num_steps + 1):
        calls.append(denoise(tf.constant(state), times[i - 1]).numpy())
        h, data = level[i] - level[i - 1], calls[-1]
        if i > 1:
            r = (level[i - 1] - level[i - 2]) / h
            data = (1 + 1 / (2 * r)) * calls[-1] - 1 / (2 * r) * calls[-2]
        state = sigma[i] / sigma[i - 1] * state - alpha[i] * (np.exp(-h) - 1) * data
    result = solve(DPMSolver(order=2), denoise, process, tf.constant(z), times)
    np.testing.assert_allclose(result, state, rtol=1e-8)


@pytest.mark.parametrize("spacing", ["uniform", "uneven"])
@pytest.mark.parametrize("direction", [1, -1])
def test_third_order_is_exact_where_its_polynomial_is(spacing, direction):
    """For x_hat quadratic in log-SNR only the two steps of the start err, here by their cube."""
    process = GaussianDiffusion(LinearLogSNR(4.0, -4.0), "vp")
    steps = {"uniform": np.ones(8), "uneven": np.array([1, 2, 1.5, 0.7, 3, 1, 0.4, 2.0])}[spacing]
    steps = np.concatenate([[0, 1e-3, 1e-3], steps])
    levels = direction * (-4 + 8 * np.cumsum(steps) / steps.sum())
    times = process.schedule.time(levels)

    def x_hat(log_snr):
        return 0.3 - 0.8 * log_snr + 0.15 * log_snr**2

    def denoise(z, t):
        return 0 * z + x_hat(process.log_snr(t))

    _, sigma = process.alpha_sigma(times)
    grid = np.linspace(levels[0], levels[-1], 200001)
    integral = np.trapezoid(np.exp(grid / 2) * x_hat(grid) / 2, grid)
    expected = sigma[-1] / sigma[0] * 0.9 + sigma[-1] * integral
    z = tf.constant([[0.9]], tf.float64)
    result = solve(DPMSolver(order=3), denoise, process, z, times)
    np.testing.assert_allclose(result, [[expected]], rtol=1e-7)


@pytest.mark.parametrize(
    "solver", [DPMSolver(1), DPMSolver(2), DPMSolver(3), UniPC(1), UniPC(2)], ids=repr
)
def test_repeated_times_change_nothing(solver, mixture_data):
    """Steps of length zero, which float32 grids can have, at the start too."""
    process = GaussianDiffusion(CosineLogSNR(5.0, -5.0))
    denoise = mixture_data.denoise(process)
    z = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    times = time_grid(process, 6, dtype="float64")
    plain, repeated = (
        solve(solver, denoise, process, z, grid) for grid in (times, tf.repeat(times, 2))
    )
    np.testing.assert_allclose(repeated, plain, rtol=1e-12)


def test_toward_noise_the_sde_form_is_the_deterministic_one(mixture_data):
    process = GaussianDiffusion(CosineLogSNR())
    times, z = time_grid(process, 5)[::-1], tf.ones([3, 2])
    denoise = mixture_data.denoise(process)
    for order in (1, 2):
        plain = solve(DPMSolver(order), denoise, process, z, times)
        noisy = solve(DPMSolver(order, sde=True), denoise, process, z, times, seed=[0, 1])
        np.testing.assert_allclose(noisy, plain, rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_saves(order):
    config = keras.saving.serialize_keras_object(DPMSolver(order))
    assert keras.saving.deserialize_keras_object(config) == DPMSolver(order)


@pytest.mark.parametrize("order", [0, 4, "2M"])
def test_unknown_order(order):
    with pytest.raises(ValueError, match="`order` must be 1, 2 or 3"):
        DPMSolver(order=order)
