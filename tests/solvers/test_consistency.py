import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, time_grid
from kgen.sampling import editing
from kgen.solvers import Consistency, solve


@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_the_exact_map_draws_exactly_the_data(num_steps, scaling, gaussian_data):
    """The end of the flow is N(alpha_0 m, alpha_0^2 v + sigma_0^2) after every number of steps.

    The start is q(z_1), not the prior, so that the moments are exact.
    """
    process, num = GaussianDiffusion(CosineLogSNR(4.0, -5.0), scaling), 20000
    at = {t: [v.numpy() for v in process.alpha_sigma(tf.constant(t))] for t in (0.0, 1.0)}

    def student(z, t):
        alpha, sigma = process.alpha_sigma(t)
        mean, std = (tf.constant(v, z.dtype) for v in (gaussian_data.mean, gaussian_data.std))
        end_mean, end_std = gaussian_data.moments(*at[0.0])
        return end_mean + (z - alpha * mean) * end_std / tf.sqrt(alpha**2 * std**2 + sigma**2)

    mean, std = gaussian_data.moments(*at[1.0])
    z = tf.constant(mean + std * np.random.default_rng(0).normal(size=(num, 2)))
    times = time_grid(process, num_steps, dtype="float64")
    x = solve(Consistency(), student, process, z, times, seed=[1, 2]).numpy()
    mean, std = gaussian_data.moments(*at[0.0])
    np.testing.assert_allclose(x.mean(0), mean, atol=4 * std.max() / np.sqrt(num))
    np.testing.assert_allclose(x.std(0), std, rtol=4 / np.sqrt(2 * num))


def test_a_step_adds_the_noise_of_its_time():
    """From z_0 = 0.6 at log-SNR 3 to log-SNR -1: the variances of two processes subtract."""
    process = GaussianDiffusion(CosineLogSNR(3.0, -3.0), "ve")
    s = float(process.schedule.time(-1.0))
    z = solve(
        Consistency(), lambda z, t: 0 * z + 0.6, process, tf.zeros([40000, 1]), [1.0, s], [1, 2]
    ).numpy()
    variance = np.exp(1.0) - np.exp(-3.0)
    np.testing.assert_allclose(z.mean(), 0.6, atol=4 * np.sqrt(variance / 40000))
    np.testing.assert_allclose(z.var(), variance, rtol=0.03)


def test_the_last_step_adds_no_noise():
    process = GaussianDiffusion(CosineLogSNR(3.0, -3.0))
    z = solve(Consistency(), lambda z, t: 0.5 * z, process, tf.ones([3, 2]), [1.0, 0.0], [1, 2])
    np.testing.assert_array_equal(z, tf.fill([3, 2], 0.5))


def test_saves_and_does_not_invert():
    solver = Consistency(grid="t")
    config = keras.saving.serialize_keras_object(solver)
    assert keras.saving.deserialize_keras_object(config) == solver
    process = GaussianDiffusion(CosineLogSNR())
    with pytest.raises(ValueError, match="`solver` must be deterministic"):
        editing.invert(solver, lambda z, t: z, process, tf.ones([1, 2]), 2)
