"""Score matching without a target: each objective against the one that has a target."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, Denoiser, GaussianDiffusion
from kgen.diffusion.score_matching import implicit_score_matching
from kgen.tensors import split

SEEDS = split(tf.constant([3, 4]), 3)


def linear(a, b):
    """A network whose output is a z + b, the same at all noise levels."""
    return lambda z, log_snr, cond, training: a * z + b


@pytest.mark.parametrize("objective", ["implicit", "sliced", "sliced_vr"])
@pytest.mark.parametrize("scaling", ["vp", "ve"])
@pytest.mark.parametrize("weighting", ["simple", "elbo"])
def test_differs_from_denoising_by_a_constant(objective, scaling, weighting, gaussian_data):
    """Hyvarinen's theorem and Vincent's: the difference of two models' losses is the same."""
    process = GaussianDiffusion(CosineLogSNR(3.0, -3.0), scaling)
    x = tf.constant(np.tile(gaussian_data.sample(500), (80, 1)), tf.float32)
    options = {"weighting": weighting, "times": "stratified"}
    plain, implicit = [], []
    for network in (linear(0.7, 0.1), linear(0.3, -0.4)):
        denoiser = Denoiser(network, process, "eps")
        plain.append(denoiser.loss(x, None, SEEDS[:2], **options).numpy())
        loss = implicit_score_matching(denoiser, x, None, SEEDS, objective=objective, **options)
        implicit.append(loss.numpy())
    gap = (plain[0] - plain[1]) - (implicit[0] - implicit[1])
    assert abs(gap.mean()) < 4 * gap.std() / len(x) ** 0.5
    assert gap.std() / len(x) ** 0.5 < 0.04 * abs((plain[0] - plain[1]).mean())


def test_variance_reduction_reduces_the_variance(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(3.0, -3.0))
    x = tf.constant(gaussian_data.sample(4000), tf.float32)
    denoiser = Denoiser(linear(0.7, 0.1), process, "eps")
    spreads = [
        implicit_score_matching(denoiser, x, None, SEEDS, objective=objective).numpy().std()
        for objective in ("implicit", "sliced_vr", "sliced")
    ]
    assert spreads[0] <= spreads[1] * 1.001 < spreads[2]


def test_the_trace_is_exact():
    """J = -diag(a) / sigma at log-SNR 0, and s = -a z / sigma, by hand."""
    process = GaussianDiffusion(CosineLogSNR(1e-4, -1e-4))
    a = tf.constant([0.5, 2.0, -1.0])
    x = tf.constant([[1.0, -1.0, 0.5]])
    actual = implicit_score_matching(
        Denoiser(lambda z, log_snr, cond, training: a * z, process, "eps"),
        x,
        None,
        SEEDS,
        objective="implicit",
        weighting="simple",
        times="uniform",
    )
    z = (x.numpy() + tf.random.stateless_normal([1, 3], SEEDS[1], alg="philox")) * 0.5**0.5
    sigma = 0.5**0.5
    score = -a * z / sigma
    expected = sigma**2 * (0.5 * np.sum(score**2) - np.sum(a) / sigma)
    np.testing.assert_allclose(actual, [expected], rtol=1e-3)
