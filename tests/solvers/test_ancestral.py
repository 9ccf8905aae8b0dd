import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, DiscreteBeta, GaussianDiffusion
from kgen.solvers import DDIM, Ancestral, solve


@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_small_variance_is_ddim_with_eta_one(scaling, mixture_data):
    process = GaussianDiffusion(CosineLogSNR(5.0, -6.0), scaling)
    z = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    results = [
        solve(solver, mixture_data.denoise(process), process, z, [0.9, 0.7, 0.4, 0.0], seed=[1, 2])
        for solver in (Ancestral(), DDIM(eta=1.0))
    ]
    np.testing.assert_allclose(*results, rtol=1e-9)


@pytest.mark.parametrize("bound", [None, 0.3])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_step_is_the_published_one(variance, bound):
    """Ho et al., eqs. 6 and 7, from the products of rates; noise from many draws."""
    schedule, levels = DiscreteBeta("linear", 1e-4, 0.02), (600, 500)
    process, times = GaussianDiffusion(schedule), np.array([600, 500]) / 999
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    now, before = (kept[i] for i in levels)
    beta, x = 1 - now / before, 0.5
    seen = x if bound is None else min(x, bound)
    mean = np.sqrt(before) * beta / (1 - now) * seen
    mean += np.sqrt(now / before) * (1 - before) / (1 - now) * 1.7
    expected = beta if variance == "large" else beta * (1 - before) / (1 - now)

    z = solve(
        Ancestral(variance, bound),
        lambda z, t: 0 * z + x,
        process,
        tf.fill([400_000], tf.constant(1.7, tf.float64)),
        times,
        seed=[3, 4],
    )
    np.testing.assert_allclose(np.mean(z), mean, atol=4e-3 * np.sqrt(expected))
    np.testing.assert_allclose(np.std(z), np.sqrt(expected), rtol=6e-3)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`variance` must be one of"):
        Ancestral("learned")
    with pytest.raises(ValueError, match="`bound` must be positive"):
        Ancestral(bound=0.0)
