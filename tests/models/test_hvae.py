"""The hierarchical VAE: exact linear chains, free bits, levels, stability."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning.labels import Labels
from kgen.gaussian import Gaussian
from kgen.likelihoods import GaussianLikelihood
from kgen.networks import mlp
from kgen.priors import GaussianMixture, StandardNormal, VampPrior
from kgen.serialization import serializable

# The batches have prompts for the models that take them.
pytestmark = pytest.mark.filterwarnings("ignore:The entries .* of a batch are not used")

SEED = tf.constant([5, 6])


@serializable
class Walk(keras.layers.Layer):
    """A level of the random walk z_l = z_(l-1) + eps with its exact posterior given x."""

    state_shape = (1,)

    def __init__(self, remaining, **kwargs):
        super().__init__(**kwargs)
        self.remaining = remaining  # variance between this level and x
        self.built = True

    def prior(self, state):
        return Gaussian(state, tf.zeros_like(state))

    def posterior(self, state, features):
        """N(state, 1) times N(x; z, remaining)."""
        gain = 1 / (1 + self.remaining)
        mean = state + gain * (features - state)
        return Gaussian(mean, tf.zeros_like(mean) + 0.5 * np.log(self.remaining * gain))

    def merge(self, state, z):
        return z


def random_walk(levels=3):
    """x = eps_1 + ... + eps_levels + 0.5 eps: N(0, levels + 0.25)."""
    identity = mlp((1,), (1,), hidden=())
    identity.set_weights([np.ones((1, 1)), np.zeros(1)])
    chain = [Walk(levels - 1 - i + 0.25) for i in range(levels)]
    return kgen.HVAE(identity, chain, identity, GaussianLikelihood(0.5), seed=0)


def test_bound_of_the_exact_chain_is_the_log_likelihood():
    x = np.linspace(-3, 3, 7).astype("float32")[:, None]
    model, variance = random_walk(), 3.25
    expected = -0.5 * (x[:, 0] ** 2 / variance + np.log(2 * np.pi * variance))
    log_w = model.log_weights(tf.constant(x), SEED, 5).numpy()
    np.testing.assert_allclose(log_w, np.tile(expected, (5, 1)), atol=1e-5)
    many = tf.repeat(tf.constant(x), 20000, axis=0)
    terms = model.bound_terms(many, seed=SEED)
    bound = sum(terms[name] for name in ("reconstruction", "prior", "denoising")).numpy()
    np.testing.assert_allclose(bound.reshape(7, -1).mean(1), -expected, atol=0.03)
    np.testing.assert_allclose(terms["denoising"], terms["kl_1"] + terms["kl_2"], rtol=1e-5)
    np.testing.assert_allclose(terms["prior"], terms["kl_0"])


def test_samples_of_the_chain_have_its_variance():
    model = random_walk()
    x = model.generate(100000, seed=0)
    assert x.var() == pytest.approx(3, rel=0.02)
    cold = model.generate(100000, seed=0, temperature=[1.0, 0.5, 0.5])
    assert cold.var() == pytest.approx(1.5, rel=0.02)


def test_reconstruction_from_the_top_levels_only():
    """The walk's prior mean is where it stands, so the lower levels add nothing."""
    model, x = random_walk(), tf.constant([[2.0]])
    # From the top: z_0 = x / (1 + 2.25), and so on with the variance that remains.
    z, expected = 0.0, []
    for remaining in (2.25, 1.25, 0.25):
        z += (2 - z) / (1 + remaining)
        expected.append(z)
    actual = [float(model.reconstruct(x, k)[0, 0]) for k in (1, 2, 3)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert [float(z[0, 0]) for z in model.encode(x)] == pytest.approx(expected)


@pytest.mark.parametrize(
    "prior",
    [GaussianMixture(3, (4,)), VampPrior(3, (16, 16, 3), low=-1.0)],
    ids=["mixture", "vamp"],
)
def test_a_learned_prior_of_the_top_level(make_hvae, dataset, pictures, tmp_path, prior):
    model, x = make_hvae(prior=prior), pictures["images"][:3]
    prior.begin_at(x, model.posterior)
    # Each term beside its definition, with densities of the mixture written out in numpy.
    _, steps = model.infer(tf.constant(x), SEED)
    (q, _, z), (q_1, p_1, z_1) = ([a, b, c] for a, b, c in steps)
    mean, std = (a.numpy() for a in (q.mean, q.std))
    square = ((z.numpy()[:, None] - mean) / std) ** 2
    pdf = np.exp(-0.5 * square.sum(-1)) / (std * np.sqrt(2 * np.pi)).prod(-1)
    expected = q.log_prob(z) - np.log(pdf.mean(-1))
    terms = model.bound_terms(x, seed=SEED)
    np.testing.assert_allclose(terms["kl_0"], expected, rtol=1e-3, atol=1e-3)
    log_w = -terms["reconstruction"] - expected + p_1.log_prob(z_1) - q_1.log_prob(z_1)
    np.testing.assert_allclose(model.log_weights(x, SEED, 1)[0], log_w, rtol=1e-4)
    before = prior.trainable_variables[0].numpy()
    model.compile("adam")
    model.fit(dataset(), verbose=0)
    assert np.abs(prior.trainable_variables[0].numpy() - before).max() > 0
    images = model.generate(3, seed=1, temperature=[0.5, 1.0])
    model.save_to_preset(tmp_path, "float32")
    loaded = kgen.from_preset(tmp_path)
    np.testing.assert_array_equal(loaded.generate(3, seed=1, temperature=[0.5, 1.0]), images)


def test_a_standard_normal_prior_is_that_of_the_top_level(make_hvae, pictures):
    x = pictures["images"][:8]
    plain, explicit = make_hvae(), make_hvae(prior=StandardNormal((4,)))
    for name, term in plain.bound_terms(x, seed=SEED).items():
        np.testing.assert_allclose(explicit.bound_terms(x, seed=SEED)[name], term, rtol=1e-5)
    np.testing.assert_allclose(
        explicit.log_weights(x, SEED, 2), plain.log_weights(x, SEED, 2), rtol=1e-5
    )
    np.testing.assert_array_equal(explicit.generate(3, seed=1), plain.generate(3, seed=1))


def test_free_bits_put_a_floor_under_each_level(make_hvae, pictures):
    x = pictures["images"][:16]
    plain = make_hvae().loss_terms(x, seed=SEED)
    floor = 1000.0
    model = make_hvae(free_bits=floor)
    with tf.GradientTape() as tape:
        terms = model.loss_terms(x, seed=SEED)
        kl = tf.reduce_mean(terms["kl_0"] + terms["kl_1"])
    assert float(kl) == pytest.approx(2 * floor, rel=1e-4)
    gradient = tape.gradient(kl, model.encoder.trainable_variables)
    assert max(float(tf.reduce_max(tf.abs(g))) for g in gradient if g is not None) < 1e-4
    low = make_hvae(free_bits=1e-3).loss_terms(x, seed=SEED)
    np.testing.assert_allclose(low["kl_1"], plain["kl_1"], rtol=1e-3)


def test_warm_up_and_beta_weigh_every_level(make_hvae, pictures):
    x = pictures["images"][:4]
    plain = make_hvae().loss_terms(x, seed=SEED)
    model = make_hvae(beta=2.0, warm_up=10)
    model.compile("sgd")
    model.optimizer.iterations.assign(5)
    half = model.loss_terms(x, training=True, seed=SEED)
    for name in ("kl_0", "kl_1"):
        np.testing.assert_allclose(half[name], plain[name], rtol=1e-4)
    np.testing.assert_allclose(model.bound_terms(x, seed=SEED)["kl_1"], plain["kl_1"], rtol=1e-5)


def test_a_residual_posterior_of_zeros_is_the_prior(make_hvae, pictures):
    model, rng = make_hvae("conv"), np.random.default_rng(0)
    for level in model.levels:
        for weight in level.posterior_network.weights:
            weight.assign(tf.zeros_like(weight))
        for weight in level.prior_network.weights if level.prior_network else ():
            weight.assign(rng.normal(0, 0.2, weight.shape))
    x = pictures["images"][:4]
    for name, kl in model.bound_terms(x, seed=SEED).items():
        if name.startswith("kl_"):
            np.testing.assert_allclose(kl, 0, atol=1e-3)


def test_an_encoder_must_have_an_output_for_each_level(make_hvae):
    levels = make_hvae().levels
    model = make_hvae("conv")
    with pytest.raises(ValueError, match="one for each level. Received: 3 outputs for 2 levels"):
        kgen.HVAE(model.encoder, levels[:2], model.decoder, "gaussian")


def test_exploding_and_undefined_steps_are_skipped(make_hvae, dataset, pictures):
    model = make_hvae()
    model.compile(keras.optimizers.Adam(1e-3), skip_above=1e-3)
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(dataset(), verbose=0)
    assert int(model.skipped_steps) == 4
    for old, new in zip(before, model.trainable_variables):
        np.testing.assert_array_equal(old, new)
    model.compile(keras.optimizers.Adam(1e-3), skip_above=1e9)
    broken = pictures["images"][:64].copy()
    broken[40] = np.nan
    model.check_batch = lambda batch: None
    model.fit(broken, batch_size=32, verbose=0, shuffle=False)
    assert int(model.skipped_steps) == 1
    assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)
    assert any((old != new.numpy()).any() for old, new in zip(before, model.trainable_variables))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate(0), ValueError, "`num_samples` must be"),
        (lambda m: m.generate(2, temperature=0.0), ValueError, "`temperature` must be"),
        (lambda m: m.generate(2, temperature=[1.0]), ValueError, "one for each of the 2"),
        (lambda m: m.reconstruct(np.zeros((1, 16, 16, 3)), 3), ValueError, "`num_levels` must be"),
        (lambda m: m.reconstruct(np.zeros((1, 16, 16, 3)), 0), ValueError, "`num_levels` must be"),
    ],
)
def test_wrong_arguments_are_refused(make_hvae, call, error, message):
    with pytest.raises(error, match=message):
        call(make_hvae())


def linear(inputs, kernel, bias):
    """A linear network of scalars with that kernel, one row for each input."""
    network = mlp([(1,)] * inputs, (np.shape(kernel)[1],), hidden=())
    network.set_weights([np.float32(kernel), np.float32(bias)])
    return network


def drifting_walk(levels=3):
    """z_l = z_(l-1) + c + eps, x = z_last + 0.5 eps: x given c is N(levels c, levels + 0.25)."""
    chain = []
    for i in range(levels):
        steps = levels - 1 - i  # that remain
        gain = 1 / (1 + steps + 0.25)
        prior = linear(2, [[1, 0], [1, 0]], [0, 0])  # state, c
        # (state + c) + gain (x - steps c - (state + c))
        kernel = [[1 - gain, 0], [gain, 0], [1 - gain * (steps + 1), 0]]
        variance = (steps + 0.25) * gain
        posterior = linear(3, kernel, [0, 0.5 * np.log(variance)])
        chain.append(kgen.GaussianLevel(prior, posterior, state_shape=(1,) if i == 0 else ()))
    labels = Labels(2, 1)
    labels.table.assign([[0.7], [-2.0], [0.0]])
    identity = linear(1, [[1.0]], [0.0])
    return kgen.HVAE(identity, chain, identity, GaussianLikelihood(0.5), conditioner=labels, seed=0)


def test_a_conditional_chain_has_the_exact_log_likelihood():
    model, x = drifting_walk(), np.linspace(-3, 3, 7).astype("float32")[:, None]
    labels = np.array([0, 1, 0, 1, 0, 1, 1])
    drift, variance = np.array([2.1, -6.0])[labels], 3.25
    expected = -0.5 * ((x[:, 0] - drift) ** 2 / variance + np.log(2 * np.pi * variance))
    log_p = model.log_likelihood(x, 2, condition=labels, batch_size=3, verbose=0)
    np.testing.assert_allclose(log_p, expected, atol=1e-4)
    many = {"images": tf.repeat(x, 5000, axis=0), "labels": np.repeat(labels, 5000)}
    terms = model.bound_terms(many, seed=SEED)
    bound = sum(terms[name] for name in ("reconstruction", "prior", "denoising")).numpy()
    np.testing.assert_allclose(bound.reshape(7, -1).mean(1), -expected, atol=0.06)


def test_conditional_samples_and_reconstructions_of_the_chain():
    model = drifting_walk()
    x = model.generate(50000, condition=[1, 0], seed=0)[:, 0].reshape(2, -1)
    np.testing.assert_allclose(x.mean(1), [-6.0, 2.1], atol=0.05)
    np.testing.assert_allclose(x.var(1), 3, rtol=0.03)
    # From the first level down the mean of the prior drifts on: z_0 + 2 c.
    x = tf.constant([[2.0]])
    z_0 = 0.7 + (2 - 2 * 0.7 - 0.7) / 3.25
    assert float(model.encode(x, condition=0)[0][0, 0]) == pytest.approx(z_0)
    top = model.reconstruct(x, 1, condition=0)
    assert float(top[0, 0]) == pytest.approx(z_0 + 1.4, rel=1e-5)


@serializable
class Level(keras.Model):
    """Subclassed networks of a level, which are built by the model's construction."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(4)

    def call(self, state, features=None):
        inputs = [state] if features is None else [state, features]
        return self.dense(keras.ops.concatenate(inputs, -1))


def test_levels_of_subclassed_networks_that_are_not_built(tmp_path):
    first = kgen.GaussianLevel(None, keras.Sequential([keras.layers.Dense(6)]))
    levels = [first, kgen.GaussianLevel(Level(), Level(), residual=True)]
    encoder, decoder = (keras.Sequential([keras.layers.Dense(n)]) for n in (5, 4))
    model = kgen.HVAE(encoder, levels, decoder, data_shape=(4,), seed=0)
    assert model.latent_shapes == [(3,), (2,)]
    assert first.latent_shape == model.latent_shape == (3,)
    assert len(model.trainable_variables) == 10
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).uniform(size=(3, 4)).astype("float32")
    again = kgen.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.reconstruct(x), model.reconstruct(x))
