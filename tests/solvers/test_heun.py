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
    result = solve(Heun(), denoise, process, tf.constant(z), times)
    np.testing.assert_allclose(result, alpha[-1] * y, rtol=1e-8)


def test_saves():
    config = keras.saving.serialize_keras_object(Heun())
    assert keras.saving.deserialize_keras_object(config) == Heun()
