import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, time_grid
from kgen.sampling import editing
from kgen.solvers import DDIM, DPMSolver, EulerMaruyama, solve

PROCESS = GaussianDiffusion(CosineLogSNR(8.0, -8.0))


@pytest.mark.parametrize("solver", [DPMSolver(2), DDIM(eta=1.0)])
def test_inpainting_keeps_what_is_known_and_paints_the_rest(solver, gaussian_data):
    """Independent coordinates: the first is known, the second keeps its own distribution."""
    known = tf.constant([[1.7, 0.0]] * 3000)
    mask = tf.constant([[0.0, 1.0]])
    denoise = editing.inpaint(gaussian_data.denoise(PROCESS), known, mask)
    z = PROCESS.prior([3000, 2]).sample([1, 2])
    x = solve(solver, denoise, PROCESS, z, time_grid(PROCESS, 150), seed=[3, 4])
    x = denoise(x, 0.0).numpy()
    np.testing.assert_array_equal(x[:, 0], np.float32(1.7))
    np.testing.assert_allclose(x[:, 1].mean(), gaussian_data.mean[1], atol=0.08)
    np.testing.assert_allclose(x[:, 1].std(), gaussian_data.std[1], rtol=0.05)


def test_inversion_finds_the_noise(mixture_data):
    """The exact flow from data to noise, and back again."""
    denoise, x = mixture_data.denoise(PROCESS), tf.constant(mixture_data.sample(6))
    ends = [[v.numpy() for v in PROCESS.alpha_sigma(tf.constant(t, tf.float64))] for t in (0.0, 1)]
    noise = editing.invert(DPMSolver(2), denoise, PROCESS, x, 200)
    exact = mixture_data.flow(ends[0][0] * x, *ends)
    np.testing.assert_allclose(noise, exact, atol=2e-3)
    times = time_grid(PROCESS, 200, dtype="float64")
    again = solve(DPMSolver(2), denoise, PROCESS, noise, times)
    np.testing.assert_allclose(again, ends[0][0] * x, atol=2e-3)


def test_inversion_needs_a_deterministic_solver():
    with pytest.raises(ValueError, match="`solver` must be deterministic"):
        editing.invert(EulerMaruyama(), None, PROCESS, tf.zeros([1, 2]), 3)


def test_slerp_turns_at_an_even_rate():
    """Between two vectors of one length: the length stays, the angle is the share of the whole."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, 4, 4, 2))
    b *= np.linalg.norm(a) / np.linalg.norm(b)
    whole = np.arccos((a * b).sum() / np.linalg.norm(a) ** 2)
    for weight in (0.0, 0.25, 0.7, 1.0):
        middle = editing.slerp(a, b, weight).numpy()
        np.testing.assert_allclose(np.linalg.norm(middle), np.linalg.norm(a))
        angle = np.arccos(np.clip((a * middle).sum() / np.linalg.norm(a) ** 2, -1, 1))
        np.testing.assert_allclose(angle, weight * whole, atol=1e-6)
    np.testing.assert_allclose(editing.slerp(a, a, 0.3), a)
