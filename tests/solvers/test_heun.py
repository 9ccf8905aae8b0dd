import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, time_grid
from kgen.solvers import Heun, solve


@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_is_the_published_loop_in_the_variance_exploding_picture(scaling, mixture_data):
    """Karras et al., algorithm 1, in numpy, with the noise level sigma / alpha as its time."""
    process = GaussianDiffusion(CosineLogSNR(5.0, -5.0), scaling)
    denoise = mixture_data.denoise(process)
    times = time_grid(process, 7, "karras", "float64")
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(times))
    level = sigma / alpha

    def slope(y, i):
        return (y - denoise(tf.constant(alpha[i] * y), times[i]).numpy()) / level[i]

    z = alpha[0] * level[0] * np.random.default_rng(0).normal(size=(5, 2))
    y = z / alpha[0]
    for i in range(7):
        first = slope(y, i)
        euler = y + (level[i + 1] - level[i]) * first
        y = y + (level[i + 1] - level[i]) * (first + slope(euler, i + 1)) / 2
    result = solve(Heun(picture="ve"), denoise, process, tf.constant(z), times)
    np.testing.assert_allclose(result, alpha[-1] * y, rtol=1e-8)


def test_is_the_trapezoidal_rule_of_the_velocity(mixture_data):
    """In the picture of the flow, in numpy: z = (1 - u) x + u eps and dz/du = eps - x."""
    process = GaussianDiffusion(CosineLogSNR(12.0, -12.0), "flow")
    denoise = mixture_data.denoise(process)
    times = time_grid(process, 7, "karras", "float64")
    u = process.alpha_sigma(times)[1].numpy()

    def velocity(z, i):
        x = denoise(tf.constant(z), times[i]).numpy()
        return (z - (1 - u[i]) * x) / u[i] - x

    start = z = np.random.default_rng(0).normal(size=(5, 2))
    for i in range(7):
        first = velocity(z, i)
        euler = z + (u[i + 1] - u[i]) * first
        z = z + (u[i + 1] - u[i]) * (first + velocity(euler, i + 1)) / 2
    result = solve(Heun(), denoise, process, tf.constant(start), times)
    np.testing.assert_allclose(result, z, rtol=1e-8)


@pytest.mark.parametrize("end", [10.0, 20.0, 30.0])
def test_few_steps_from_very_low_snr(end):
    """N(0, 1) stays as it is under "vp", whose flow is the identity of each point."""
    process = GaussianDiffusion(CosineLogSNR(end, -end))

    def denoise(z, t):
        return process.alpha_sigma(t)[0] * z

    z = tf.constant(np.linspace(-2, 2, 9)[:, None])
    for picture, least, most in (("flow", 0.0, 0.15), ("ve", 0.3, np.inf)):
        result = solve(
            Heun(picture=picture), denoise, process, z, time_grid(process, 10, dtype="float64")
        )
        assert least <= np.abs(result - z).max() < most


def test_saves():
    config = keras.saving.serialize_keras_object(Heun())
    assert keras.saving.deserialize_keras_object(config) == Heun()
