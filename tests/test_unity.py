"""The road is one road: each station is the next one in a special case.

Luo (2022), https://arxiv.org/abs/2208.11970: a VAE with a chain of latents is a hierarchical VAE
(section "Hierarchical Variational Autoencoders"), and one whose encoder is a fixed linear Gaussian
chain on latents of the data's own size is the variational diffusion model.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.likelihoods import GaussianLikelihood
from kgen.networks import mlp
from kgen.serialization import serializable
from kgen.tensors import split

SEED = tf.constant([5, 6])


def test_an_hvae_of_one_level_is_the_vae():
    """Luo, eq. 25 with T = 1 is eq. 19: the same terms from the same noise."""
    keras.utils.set_random_seed(0)
    encoder, decoder = mlp((6,), (4,)), mlp((2,), (6,))
    x = np.random.default_rng(0).normal(size=(20, 6)).astype("float32")
    options = {"beta": 3.0, "seed": 0}
    vae = kgen.VAE(encoder, decoder, GaussianLikelihood(0.5), **options)
    features = keras.Input((4,))
    level = kgen.GaussianLevel(None, keras.Model(features, keras.layers.Identity()(features)))
    hvae = kgen.HVAE(encoder, [level], decoder, GaussianLikelihood(0.5), **options)
    one, other = vae.loss_terms(x, seed=SEED), hvae.loss_terms(x, seed=SEED)
    np.testing.assert_allclose(one["reconstruction"], other["reconstruction"], rtol=1e-6)
    np.testing.assert_allclose(one["kl"], other["kl_0"], rtol=1e-6)
    np.testing.assert_allclose(vae.log_weights(x, SEED, 3), hvae.log_weights(x, SEED, 3), rtol=1e-5)


@serializable
class DiffusionLevel(keras.layers.Layer):
    """The level z_s of a diffusion: its posterior is q(z_s | z_t, x), its prior that at x_hat."""

    def __init__(self, process, denoise, s, t, size, **kwargs):
        super().__init__(**kwargs)
        self.process, self.denoise, self.s, self.t = process, denoise, s, t
        self.state_shape = (size,)
        self.built = True

    def prior(self, state):
        if self.t is None:
            return self.process.prior(state)
        return self.process.posterior(state, self.denoise(state, self.t), self.s, self.t)

    def posterior(self, state, features):
        if self.t is None:
            return self.process.marginal(features, self.s)
        return self.process.posterior(state, features, self.s, self.t)

    def merge(self, state, z):
        return z


@pytest.mark.parametrize("scaling", ["vp", "flow"])
def test_an_hvae_with_a_fixed_linear_gaussian_encoder_is_the_diffusion_model(
    gaussian_data, scaling
):
    """Luo, eq. 58 and 105: below the top, each KL is 1/2 (SNR(s) - SNR(t)) |x - x_hat|^2."""
    process = GaussianDiffusion(CosineLogSNR(), scaling)
    denoise = gaussian_data.denoise(process)
    times = [tf.constant(t, tf.float32) for t in np.linspace(1, 0, 6)]
    levels = [DiffusionLevel(process, denoise, times[0], None, 2)]
    levels += [DiffusionLevel(process, denoise, s, t, 2) for t, s in itertools.pairwise(times)]
    identity = mlp((2,), (2,), hidden=())
    identity.set_weights([np.eye(2), np.zeros(2)])
    hvae = kgen.HVAE(identity, levels, identity, GaussianLikelihood(0.1), seed=0)
    x = tf.constant(gaussian_data.sample(8), tf.float32)
    terms = hvae.bound_terms(x, seed=SEED)

    # The same chain by hand, from the noise that the levels drew.
    seeds, expected = split(SEED, 6), 0.0
    z = process.marginal(x, times[0]).sample(seeds[0])
    for t, s, seed in zip(times, times[1:], seeds[1:]):
        (a_t, o_t), (a_s, o_s) = process.alpha_sigma(t), process.alpha_sigma(s)
        snr = (a_s / o_s) ** 2 - (a_t / o_t) ** 2
        expected += 0.5 * snr * tf.reduce_sum((x - denoise(z, t)) ** 2, -1)
        z = process.posterior(z, x, s, t).sample(seed)
    np.testing.assert_allclose(terms["denoising"], expected, rtol=2e-3)


def test_the_levels_of_the_diffusion_model_are_those_of_the_hvae(gaussian_data):
    """T levels of `DiffusionModel` in expectation: the sum of the KLs of the chain above."""
    process, size = GaussianDiffusion(CosineLogSNR()), 5
    denoise = gaussian_data.denoise(process)
    times = [tf.constant(t, tf.float32) for t in np.linspace(1, 0, size + 1)]
    levels = [DiffusionLevel(process, denoise, times[0], None, 2)]
    levels += [DiffusionLevel(process, denoise, s, t, 2) for t, s in itertools.pairwise(times)]
    identity = mlp((2,), (2,), hidden=())
    identity.set_weights([np.eye(2), np.zeros(2)])
    hvae = kgen.HVAE(identity, levels, identity, GaussianLikelihood(0.1), seed=0)

    def network(z, log_snr, cond=None, training=False):
        alpha, sigma = (a[:, None] for a in process.alpha_sigma_of(log_snr))
        return (z - alpha * denoise(z, process.schedule.time(log_snr))) / sigma

    vdm = kgen.DiffusionModel(
        network, process, data_shape=(2,), prediction="eps", levels=size, grey_levels=None
    )
    x = tf.constant(np.tile(gaussian_data.sample(100), (400, 1)), tf.float32)
    one, other = (model.bound_terms(x, seed=SEED) for model in (hvae, vdm))
    np.testing.assert_allclose(one["prior"], other["prior"], atol=1e-6)
    chain, drawn = one["denoising"].numpy(), other["denoising"].numpy()
    error = np.hypot(chain.std(), drawn.std()) / np.sqrt(len(x))
    assert abs(chain.mean() - drawn.mean()) < 4 * error
    assert error < 0.02 * chain.mean()


def test_the_score_model_with_likelihood_weighting_is_the_diffusion_model(gaussian_data):
    """Luo, eq. 148 and Song et al. (2021b), theorem 1: lambda = g^2 gives the denoising term."""
    for scaling in ("vp", "ve", "sub_vp", "flow"):
        process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)

        def network(z, log_snr, cond=None, training=False):
            return 0.3 * z

        options = {"data_shape": (2,), "grey_levels": None, "prediction": "score"}
        score = kgen.ScoreModel(network, process, weighting="elbo", **options)
        vdm = kgen.DiffusionModel(network, process, weighting="elbo", **options)
        x = tf.constant(gaussian_data.sample(64), tf.float32)
        one = score.loss_terms(x, seed=SEED)["score_matching"]
        # By hand: g^2 / 2 |s - grad log q(z_t | x)|^2 from the noise and times that were drawn.
        seeds = split(SEED, 4)
        t, _ = kgen.diffusion.sample_times("stratified", process, 64, seeds[1])
        eps = tf.random.stateless_normal([64, 2], seeds[2], alg="philox")
        alpha, sigma = (v[:, None] for v in process.alpha_sigma(t))
        z = alpha * x + sigma * eps
        s = 0.3 * z / tf.sqrt(alpha**2 + sigma**2)
        g = process.diffusion_coefficient(t)
        expected = g**2 / 2 * tf.reduce_sum((s + eps / sigma) ** 2, -1) / 2
        np.testing.assert_allclose(one, expected, rtol=1e-3)
        # And the same term of the bound, whose seeds are split otherwise.
        other = vdm.bound_terms(x, seed=SEED)["denoising"] / 2
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_guidance_is_bayes_rule():
    """Luo, eq. 163-166: classifier-free guidance is that of the classifier with gradient c - u."""
    process = GaussianDiffusion(CosineLogSNR())
    t = tf.constant(0.4)
    alpha, sigma = process.alpha_sigma(t)

    def denoise(z, t, cond):
        return 0.5 * z + cond

    def log_prob(z, t):  # its gradient is that of log p(cond | z) = score_c - score_u
        return tf.reduce_sum(z * alpha / sigma**2 * (1.0 - 0.2), -1)

    z = tf.constant([[0.3, -1.0]])
    free = kgen.diffusion.classifier_free(denoise, 1.0, 0.2, 3.0)(z, t)
    guide = kgen.diffusion.classifier_guidance(process, log_prob)
    np.testing.assert_allclose(guide(denoise, 1.0, None, 2.0)(z, t), free, rtol=1e-5)
