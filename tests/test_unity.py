"""The road is one road: each station is the next one in a special case.

    autoencoder  =  VAE without noise and prior
    VAE          =  HVAE of one level
    HVAE         =  diffusion model, where the encoder is fixed: its loss is a KL, in every scaling,
                    its sampling is ancestral sampling, and many levels are continuous time
    diffusion    =  one loss, whether of x, eps, v, the velocity or the score
                 =  score model with the likelihood weighting, by Tweedie's formula
                 =  the exact likelihood, where the denoiser is exact
    + autoencoder and text  =  latent diffusion;  guidance  =  Bayes' rule

The equations are those of Luo (2022), https://arxiv.org/abs/2208.11970, where nothing else is said.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Conditioner
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR
from kgen.diffusion.prediction import PREDICTION_TYPES, data_std, target
from kgen.likelihoods import GaussianLikelihood
from kgen.networks import mlp
from kgen.networks.conv import decoder, encoder
from kgen.serialization import serializable
from kgen.solvers import DDIM
from kgen.tensors import expand_to, split

SEED = tf.constant([5, 6])
every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])


def network_of(denoise, process, kind="eps"):
    """A network whose output, of that prediction type, means x_hat = denoise(z, t)."""

    def network(z, log_snr, cond=None, training=False):
        log_snr = tf.cast(log_snr, z.dtype)
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
        z = z * tf.exp(process.log_std_of(expand_to(log_snr, z), data_std(kind)))
        x_hat = denoise(z, process.schedule.time(log_snr))
        return target(kind, x_hat, (z - alpha * x_hat) / sigma, alpha, sigma)

    return network


def diffusion_of(denoise, process, kind="eps", **options):
    """The diffusion model with that denoiser of two real values."""
    options = {"data_shape": (2,), "grey_levels": None, "prediction": kind, **options}
    return kgen.DiffusionModel(network_of(denoise, process, kind), process, **options)


def test_a_vae_without_noise_and_prior_is_the_autoencoder():
    """Eq. 19 with q(z | x) a point and beta = 0: the cross-entropy of logits is -log p(x | z)."""
    keras.utils.set_random_seed(0)
    encoder, decoder = mlp((6,), (2,)), mlp((2,), (6,))
    moments = keras.layers.Concatenate()([encoder.output, 0 * encoder.output - 30.0])
    vae = kgen.VAE(keras.Model(encoder.input, moments), decoder, "bernoulli", beta=0.0)
    plain = kgen.Autoencoder(encoder, decoder, error="cross_entropy")
    x = np.random.default_rng(0).uniform(size=(20, 6)).astype("float32")
    one, other = (sum(model.loss_terms(x, seed=SEED).values()) for model in (vae, plain))
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_an_hvae_of_one_level_is_the_vae():
    """Eq. 25 with T = 1 is eq. 19: the same terms from the same noise."""
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


@every_scaling
def test_the_kl_of_a_level_is_a_difference_of_snr(scaling):
    """Eq. 87-93 and 105-109: KL(q(z_s | z_t, x) || q(z_s | z_t, x_hat)), over short and long steps.

    The right-hand side knows nothing of the scaling.
    """
    process = GaussianDiffusion(CosineLogSNR(), scaling)
    rng = np.random.default_rng(1)
    x, x_hat, z_t = rng.normal(size=(3, 5, 4, 2))
    s, t = np.array([0.0, 0.1, 0.4, 0.7, 0.95]), np.array([0.05, 0.5, 0.41, 0.9, 1.0])
    kl = process.posterior(z_t, x, s, t).kl(process.posterior(z_t, x_hat, s, t))
    snr_s, snr_t = np.exp(process.log_snr(s)), np.exp(process.log_snr(t))
    expected = 0.5 * (snr_s - snr_t) * ((x - x_hat) ** 2).sum((1, 2))
    np.testing.assert_allclose(kl, expected, rtol=1e-9)


@every_scaling
def test_an_hvae_with_a_fixed_linear_gaussian_encoder_is_the_diffusion_model(
    gaussian_data, scaling
):
    """Eq. 58 and 105: below the top, each KL is 1/2 (SNR(s) - SNR(t)) |x - x_hat|^2."""
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
    """Eq. 58: T levels of `DiffusionModel` in expectation are the sum of the KLs of the chain."""
    process, size = GaussianDiffusion(CosineLogSNR()), 5
    denoise = gaussian_data.denoise(process)
    times = [tf.constant(t, tf.float32) for t in np.linspace(1, 0, size + 1)]
    levels = [DiffusionLevel(process, denoise, times[0], None, 2)]
    levels += [DiffusionLevel(process, denoise, s, t, 2) for t, s in itertools.pairwise(times)]
    identity = mlp((2,), (2,), hidden=())
    identity.set_weights([np.eye(2), np.zeros(2)])
    hvae = kgen.HVAE(identity, levels, identity, GaussianLikelihood(0.1), seed=0)

    vdm = diffusion_of(denoise, process, levels=size)
    x = tf.constant(np.tile(gaussian_data.sample(100), (400, 1)), tf.float32)
    one, other = (model.bound_terms(x, seed=SEED) for model in (hvae, vdm))
    np.testing.assert_allclose(one["prior"], other["prior"], atol=1e-6)
    chain, drawn = one["denoising"].numpy(), other["denoising"].numpy()
    error = np.hypot(chain.std(), drawn.std()) / np.sqrt(len(x))
    assert abs(chain.mean() - drawn.mean()) < 4 * error
    assert error < 0.02 * chain.mean()


@every_scaling
def test_sampling_from_the_levels_is_ancestral_sampling(scaling, gaussian_data):
    """p(z_s | z_t) = q(z_s | z_t, x_hat), eq. 84 and 93: the step of DDIM with eta = 1."""
    process = GaussianDiffusion(CosineLogSNR(), scaling)
    denoise = gaussian_data.denoise(process)
    s, t = tf.constant(0.4), tf.constant(0.55)
    z = process.prior([8, 2]).sample(SEED)
    drawn = DiffusionLevel(process, denoise, s, t, 2).prior(z).sample(SEED)
    stepped, _ = DDIM(eta=1.0).step(denoise, process, z, t, s, 0, (), SEED)
    np.testing.assert_allclose(stepped, drawn, rtol=1e-4, atol=1e-5)


@every_scaling
def test_a_short_level_is_a_step_of_the_stochastic_differential_equation(scaling):
    """Song et al. (2021), https://arxiv.org/abs/2011.13456, eqs. 5 and 29: f and g^2 are the rates.

    Of the mean and the variance of q(z_t | z_s); g^2 = -sigma^2 dl/dt in every scaling.
    """
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0), scaling)
    s, step = np.linspace(0.1, 0.9, 9), 1e-6
    q = process.transition(np.ones([9, 1]), s, s + step)
    np.testing.assert_allclose((q.mean[:, 0] - 1) / step, process.drift(s), rtol=1e-3, atol=1e-8)
    rate = q.std[:, 0] ** 2 / step
    np.testing.assert_allclose(rate, process.diffusion_coefficient(s) ** 2, rtol=1e-3)
    _, sigma = process.alpha_sigma(s)
    np.testing.assert_allclose(rate, -(sigma**2) * process.schedule.slope(s), rtol=1e-3)


def bound(model, x, draws=40):
    run = tf.function(lambda seed: tf.add_n(list(model.bound_terms(x, seed=seed).values())))
    return np.mean([run(tf.constant([i, 0])).numpy().mean() for i in range(draws)])


def test_many_levels_are_continuous_time_and_the_bound_is_tight(gaussian_data):
    """Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eqs. 13-18, with the exact denoiser.

    T/2 expm1(l_s - l_t) exceeds the integral by half a step, so the gap falls as 1 / T; in the
    limit there is none, and the bound is -log p(x).
    """
    process = GaussianDiffusion(LinearLogSNR(11.0, -11.0))
    x = tf.constant(np.tile(gaussian_data.sample(100), (100, 1)), tf.float32)
    expected, denoise = -gaussian_data.log_prob(x.numpy()).mean(), gaussian_data.denoise(process)
    gaps = [
        bound(diffusion_of(denoise, process, levels=levels), x) - expected
        for levels in (10, 100, 1000)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert 7 < gaps[1] / gaps[2] < 13
    assert gaps[2] < 0.2


@every_scaling
def test_the_bound_of_an_exact_denoiser_is_the_likelihood(scaling, gaussian_data):
    """Eq. 58 with equality: the reverse process is then the true one."""
    process = GaussianDiffusion(LinearLogSNR(11.0, -11.0), scaling)
    x = tf.constant(np.tile(gaussian_data.sample(100), (100, 1)), tf.float32)
    model = diffusion_of(gaussian_data.denoise(process), process)
    expected = -gaussian_data.log_prob(x.numpy()).mean()
    assert bound(model, x) == pytest.approx(expected, abs=0.01)


@every_scaling
@pytest.mark.parametrize("kind", sorted(PREDICTION_TYPES))
def test_the_loss_is_one_loss_whatever_is_predicted(kind, scaling, gaussian_data):
    """Eq. 99, 130 and 148, and v, the velocity and EDM's output: one error up to `error_scale`.

    Of a denoiser that is wrong, by hand as 1/2 SNR (-dl/dt) |x - x_hat|^2.
    """
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)
    model = diffusion_of(lambda z, t: 0.4 * z, process, kind)
    x = tf.constant(gaussian_data.sample(64), tf.float32)
    seeds = split(SEED, 3)
    t, _ = kgen.diffusion.sample_times("stratified", process, 64, seeds[1])
    z = process.marginal(x, t).sample(seeds[2])
    factor = -process.schedule.slope(t) * tf.exp(process.log_snr(t))
    expected = factor / 2 * tf.reduce_sum((x - 0.4 * z) ** 2, -1) / 2
    loss = model.loss_terms(x, seed=SEED)["weighted_denoising"]
    np.testing.assert_allclose(loss, expected, rtol=5e-3)


@every_scaling
def test_the_denoiser_is_the_score(scaling, mixture_data):
    """Tweedie's formula, eq. 133 and 151: s = (alpha x_hat - z) / sigma^2 = -eps_hat / sigma."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)
    z, t = tf.constant(np.random.default_rng(2).normal(size=(7, 2))), tf.constant(0.4, tf.float64)
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(t))
    denoise = mixture_data.denoise(process)
    for kind in ("x", "eps", "score"):
        options = {"data_shape": (2,), "grey_levels": None, "prediction": kind}
        model = kgen.ScoreModel(network_of(denoise, process, kind), process, **options)
        exact = mixture_data.score(z, alpha, sigma)
        np.testing.assert_allclose(model.score(z, t), exact, rtol=1e-3, atol=1e-3)


def test_the_score_model_with_likelihood_weighting_is_the_diffusion_model(gaussian_data):
    """Eq. 148 and Song et al. (2021), https://arxiv.org/abs/2101.09258, theorem 1: lambda = g^2."""
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


@serializable
class Length(Conditioner):
    """A condition of texts: their length."""

    batch_key = "prompts"

    def call(self, rows, training=False):
        return {"pooled": tf.cast(tf.strings.length(rows), tf.float32)[:, None]}

    def null(self, batch_size):
        return {"pooled": tf.zeros([batch_size, 1])}

    def signature(self, form=None):
        return {"prompts": tf.TensorSpec([None], tf.string, "prompts")}


def test_latent_diffusion_is_the_diffusion_model_of_latents_told_a_text():
    """Rombach et al. (2022), https://arxiv.org/abs/2112.10752, eq. 3, at the same noise."""
    keras.utils.set_random_seed(0)
    autoencoder = kgen.KLAutoencoder(
        encoder((4, 4, 3), 2, channels=(8, 8)), decoder((2, 2, 2), channels=(8, 8))
    )
    process = GaussianDiffusion(CosineLogSNR())

    def network(z, log_snr, cond=None, training=False):
        return 0.2 * z + 0.1 * cond["pooled"][:, :, None, None]

    options = {"weighting": "snr_plus_one", "cond_drop_rate": 0.0}
    latent = kgen.LatentDiffusion(
        autoencoder, network, process, Length(), ema_decay=None, **options
    )
    plain = kgen.DiffusionModel(
        network, process, data_shape=(2, 2, 2), conditioner=Length(), grey_levels=None, **options
    )
    images = np.random.default_rng(0).uniform(-1, 1, (16, 4, 4, 3)).astype("float32")
    batch = {"images": images, "prompts": tf.constant(["a", "heart"] * 8)}
    seeds = split(SEED, 4)  # of the latents, the texts, the times and the noise
    latents = {**batch, "images": autoencoder.encode(images, seeds[0])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kgen.models.diffusion_model.split", lambda *_: seeds[1:])
        expected = plain.loss_terms(latents, seed=SEED)["weighted_denoising"]
    np.testing.assert_allclose(
        latent.loss_terms(batch, seed=SEED)["denoising"], expected, rtol=1e-5
    )


def test_guidance_is_bayes_rule():
    """Eq. 163-166: classifier-free guidance is that of the classifier with gradient c - u."""
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
