import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR, time_grid
from kgen.solvers import DDIM, solve

every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])


@every_scaling
def test_update_keeps_the_noise(scaling, mixture_data):
    """An independent loop: z_s = alpha_s x_hat + sigma_s eps_hat."""
    process = GaussianDiffusion(CosineLogSNR(5.0, -7.0), scaling)
    denoise = mixture_data.denoise(process)
    times = time_grid(process, 6, "t", "float64")
    z = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    expected = z.numpy()
    for t, s in itertools.pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(t), process.alpha_sigma(s)
        x_hat = denoise(tf.constant(expected), t).numpy()
        eps_hat = (expected - alpha_t * x_hat) / sigma_t
        expected = (alpha_s * x_hat + sigma_s * eps_hat).numpy()
    np.testing.assert_allclose(solve(DDIM(), denoise, process, z, times), expected, rtol=1e-8)


@every_scaling
def test_ancestral_step_is_bayes_rule(scaling):
    """With a constant estimate x_hat one step with eta = 1 is a draw from q(z_s | z_t, x_hat).

    Mean and variance come from multiplying the two densities, by their precisions.
    """
    process = GaussianDiffusion(LinearLogSNR(4.0, -3.0), scaling)
    times = tf.constant([0.7, 0.45], tf.float64)
    (alpha_t, alpha_s), (sigma_t, sigma_s) = (v.numpy() for v in process.alpha_sigma(times))
    ratio = alpha_t / alpha_s
    noise = sigma_t**2 - ratio**2 * sigma_s**2
    variance = 1 / (1 / sigma_s**2 + ratio**2 / noise)
    mean = variance * (alpha_s * 0.6 / sigma_s**2 + ratio * 1.5 / noise)
    z = tf.fill([40000, 1], tf.constant(1.5, tf.float64))
    z_s = solve(DDIM(1.0), lambda z, t: 0 * z + 0.6, process, z, times, seed=[1, 2]).numpy()
    np.testing.assert_allclose(z_s.mean(), mean, atol=4 * np.sqrt(variance / 40000))
    np.testing.assert_allclose(z_s.var(), variance, rtol=0.03)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_mean_and_variance_of_a_whole_run(eta, gaussian_data):
    """Every step is linear in z for Gaussian data, so both moments follow a recursion."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), "vp")
    times = time_grid(process, 8, dtype="float64")
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(times))
    mean, var = np.zeros(2), np.ones(2)
    for i in range(8):
        gain = alpha[i] * gaussian_data.std**2
        gain /= alpha[i] ** 2 * gaussian_data.std**2 + sigma[i] ** 2
        snr_ratio = (alpha[i] / sigma[i]) ** 2 / (alpha[i + 1] / sigma[i + 1]) ** 2
        fresh = eta**2 * sigma[i + 1] ** 2 * (1 - snr_ratio)
        kept = np.sqrt(sigma[i + 1] ** 2 - fresh) / sigma[i]
        on_x_hat = alpha[i + 1] - kept * alpha[i]
        factor = kept + on_x_hat * gain
        mean = factor * mean + on_x_hat * (1 - gain * alpha[i]) * gaussian_data.mean
        var = factor**2 * var + fresh
    z = process.prior(tf.zeros([30000, 2], tf.float64)).sample([3, 4])
    x = solve(DDIM(eta), gaussian_data.denoise(process), process, z, times, seed=[5, 6]).numpy()
    np.testing.assert_allclose(x.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(x.var(0), var, rtol=0.03)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_many_noisy_steps_give_the_data(eta, gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(10.0, -10.0), "flow")
    z = process.prior([10000, 2]).sample([3, 4])
    times = time_grid(process, 300)
    denoise = gaussian_data.denoise(process)
    x = tf.function(solve)(DDIM(eta), denoise, process, z, times, seed=[5, 6]).numpy()
    np.testing.assert_allclose(x.mean(0), gaussian_data.mean, atol=0.04)
    np.testing.assert_allclose(x.std(0), gaussian_data.std, rtol=0.05)


def test_seed_decides_and_every_step_draws_anew(gaussian_data):
    process = GaussianDiffusion(LinearLogSNR(2.0, -2.0), "ve")

    def run(seed, times):
        z = tf.zeros([2000, 1])
        return solve(DDIM(1.0), lambda z, t: tf.zeros_like(z), process, z, times, seed).numpy()

    times = time_grid(process, 4)
    np.testing.assert_array_equal(run([1, 2], times), run([1, 2], times))
    assert not np.array_equal(run([1, 2], times), run([1, 3], times))
    assert not np.array_equal(run(None, times), run(None, times))
    one, two = run([1, 2], times[:2])[:, 0], run([1, 2], times[:3])[:, 0]
    correlation = np.corrcoef(one, two)[0, 1]
    _, sigma = process.alpha_sigma(times)
    kept = (sigma[2] / sigma[1]) ** 2 * np.std(one) / np.std(two)
    assert abs(correlation - kept) < 0.08


def test_no_fresh_noise_toward_noise(mixture_data):
    process = GaussianDiffusion(CosineLogSNR())
    times, z = time_grid(process, 5)[::-1], tf.ones([3, 2])
    denoise = mixture_data.denoise(process)
    deterministic = solve(DDIM(), denoise, process, z, times)
    noisy = solve(DDIM(1.0), denoise, process, z, times, seed=[0, 1])
    np.testing.assert_allclose(noisy, deterministic, rtol=1e-5)


def test_saves_and_checks_eta():
    config = keras.saving.serialize_keras_object(DDIM(eta=0.25))
    assert keras.saving.deserialize_keras_object(config) == DDIM(eta=0.25)
    for eta in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"`eta` must be in \[0, 1\]"):
            DDIM(eta=eta)
