"""UniPC against the published algorithm, as the paper states it, in numpy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, time_grid
from kgen.solvers import UniPC, solve

every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])


def phi(k, h):
    """phi_k(h) of the paper's appendix, by its recursion."""
    return (
        1.0
        if h == 0
        else math.exp(h)
        if k == 0
        else (phi(k - 1, h) - 1 / math.factorial(k - 1)) / h
    )


def integral(h, past, x, newest=None):
    """Integral of a step with B(h) = expm1(-h), from x_hat at offsets `past` in units of h.

    The weights a_m of the differences solve sum_m r_m^(k - 1) a_m = k! phi_(k + 1) h / B(h); where
    there is one difference only, the authors take a half.
    """
    b_h = math.expm1(-h)
    ratios, differences = list(past), [(v - x[0]) / r for v, r in zip(x[1:], past)]
    if newest is not None:
        ratios, differences = [*ratios, 1.0], [*differences, newest - x[0]]
    if not ratios:
        return -b_h * x[0]
    if len(ratios) == 1:
        weights = [0.5]
    else:
        order = range(1, len(ratios) + 1)
        right = [math.factorial(k) * phi(k + 1, -h) * -h / b_h for k in order]
        weights = np.linalg.solve([[r ** (k - 1) for r in ratios] for k in order], right)
    return -b_h * (x[0] + sum(w * d for w, d in zip(weights, differences)))


def published(denoise, alpha, sigma, z, order):
    """Algorithm 1: predict, call, correct; the last step is predicted."""
    level = np.log(alpha / sigma)
    calls, before = [], None
    for i in range(len(alpha)):
        if i == len(alpha) - 1:
            return z
        x = denoise(z, i)
        if before is not None:
            h, past = level[i] - level[i - 1], before[1]
            moved = sigma[i] / sigma[i - 1] * before[0]
            z = moved + alpha[i] * integral(h, past, calls, newest=x)
        h = level[i + 1] - level[i]
        earlier = min(order, i + 1) - 1
        past = [(level[i - k] - level[i]) / h for k in range(1, earlier + 1)]
        calls = [x, *calls[:earlier]]
        before = (z, past)
        z = sigma[i + 1] / sigma[i] * z + alpha[i + 1] * integral(h, past, calls)


@every_scaling
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("num_steps", "grid"), [(1, "t"), (2, "t"), (5, "t"), (9, "karras")])
def test_steps_are_the_published_ones(scaling, order, num_steps, grid, mixture_data):
    process = GaussianDiffusion(CosineLogSNR(5.0, -6.0), scaling)
    denoise = mixture_data.denoise(process)
    times = time_grid(process, num_steps, grid, "float64")
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(times))
    z = np.random.default_rng(0).normal(size=(5, 2))
    expected = published(
        lambda z, i: denoise(tf.constant(z), times[i]).numpy(), alpha, sigma, z, order
    )
    result = solve(UniPC(order), denoise, process, tf.constant(z), times)
    np.testing.assert_allclose(result, expected, rtol=1e-8)
