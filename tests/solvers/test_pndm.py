"""PNDM against the published steps in numpy, and what order that is."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, time_grid
from kgen.solvers import DDIM, PNDM, ClippedDDIM, solve

SCALINGS = ["vp", "ve", "sub_vp", "flow"]


def published(denoise, alpha, sigma, z, prediction):
    """Liu et al., eqs. 9 and 12, for a process that keeps the variance."""

    def output(z, i):
        x = denoise(z, i)
        eps = (z - alpha[i] * x) / sigma[i]
        return eps if prediction == "eps" else alpha[i] * eps - sigma[i] * x

    def transfer(z, out, t, s):
        eps = out if prediction == "eps" else alpha[t] * out + sigma[t] * z
        a_t, a_s = alpha[t] ** 2, alpha[s] ** 2
        root = np.sqrt((1 - a_s) * a_t) + np.sqrt((1 - a_t) * a_s)
        return np.sqrt(a_s / a_t) * z - (a_s - a_t) / (np.sqrt(a_t) * root) * eps

    outs = []
    for i in range(len(alpha) - 1):
        e = [output(z, i), *outs]
        outs = e
        if i == 0:
            out = (e[0] + output(transfer(z, e[0], 0, 1), 1)) / 2
        elif i == 1:
            out = (3 * e[0] - e[1]) / 2
        elif i == 2:
            out = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            out = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        z = transfer(z, out, i, i + 1)
    return z


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_steps_are_the_published_ones(prediction, num_steps, scaling, mixture_data):
    """In every scaling; the published ones are those of "vp", which the others only rescale."""
    process = GaussianDiffusion(CosineLogSNR(5.0, -6.0), scaling)
    vp = GaussianDiffusion(CosineLogSNR(5.0, -6.0), "vp")
    times = time_grid(process, num_steps, "t", "float64")
    alpha, sigma = (v.numpy() for v in vp.alpha_sigma(times))
    z, denoise = np.random.default_rng(0).normal(size=(5, 2)), mixture_data.denoise(vp)
    expected = published(
        lambda z, i: denoise(tf.constant(z), times[i]).numpy(), alpha, sigma, z, prediction
    )
    start, end = (process.alpha_sigma(t)[0] / vp.alpha_sigma(t)[0] for t in (times[0], times[-1]))
    result = solve(PNDM(prediction), mixture_data.denoise(process), process, start * z, times)
    np.testing.assert_allclose(result / end, expected, rtol=1e-8)


def test_clipped_estimates_keep_their_noise(mixture_data):
    """One step of the published code; without estimates out of range it is DDIM."""
    process = GaussianDiffusion(CosineLogSNR(5.0, -6.0))
    times = time_grid(process, 4, "t", "float64")
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(times))
    z = np.random.default_rng(0).normal(size=(5, 2))
    state, denoise = z, mixture_data.denoise(process)
    for i in range(4):
        x = denoise(tf.constant(state), times[i]).numpy()
        eps = (state - alpha[i] * x) / sigma[i]
        state = alpha[i + 1] * np.clip(x, -0.5, 0.5) + sigma[i + 1] * eps
    result = solve(ClippedDDIM(0.5), denoise, process, tf.constant(z), times)
    np.testing.assert_allclose(result, state, rtol=1e-8)
    wide = solve(ClippedDDIM(50.0), denoise, process, tf.constant(z), times)
    np.testing.assert_allclose(
        wide, solve(DDIM(), denoise, process, tf.constant(z), times), rtol=1e-8
    )
