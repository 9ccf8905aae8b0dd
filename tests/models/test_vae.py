"""The VAE: its bound against exact log likelihoods, its estimators against one another."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.callbacks import PosteriorCollapse
from kgen.conditioning.labels import Labels
from kgen.data import grey
from kgen.density.importance import importance_log_likelihood, log_mean_exp
from kgen.likelihoods import GaussianLikelihood
from kgen.networks import mlp
from kgen.priors import GaussianMixture, VampPrior

# The batches have prompts for the models that take them.
pytestmark = pytest.mark.filterwarnings("ignore:The entries .* of a batch are not used")

SEED = tf.constant([5, 6])
STD = 0.4


@pytest.fixture(scope="module")
def data():
    """Data of a factor model, x = W z + STD eps, and W."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 2)).astype("float32")
    z, eps = rng.normal(size=(4000, 2)), rng.normal(size=(4000, 5))
    return (z @ weight.T + STD * eps).astype("float32"), weight


def linear_vae(weight, exact=True, **options):
    """A linear VAE with the true decoder, and the true posterior or a wider one.

    The posterior is N(M^-1 W^T x, STD^2 M^-1) with M = W^T W + STD^2 I (Tipping and Bishop (1999),
    eq. 7); W is rotated so that M is diagonal, as the encoder's Gaussian is.
    """
    _, _, rotation = np.linalg.svd(weight, full_matrices=False)
    weight = weight @ rotation.T
    m = np.diag(weight.T @ weight) + STD**2
    encoder, decoder = mlp((5,), (4,), hidden=()), mlp((2,), (5,), hidden=())
    log_std = 0.5 * np.log(STD**2 / m) + (0.0 if exact else 0.5)
    kernel = np.concatenate([weight / m, np.zeros((5, 2))], axis=1)
    encoder.set_weights([kernel, np.concatenate([np.zeros(2), log_std])])
    decoder.set_weights([weight.T, np.zeros(5)])
    return kgen.VAE(encoder, decoder, GaussianLikelihood(STD), seed=0, **options)


def exact_log_p(x, weight):
    """log N(x; 0, W W^T + STD^2 I)."""
    cov = weight @ weight.T + STD**2 * np.eye(5)
    quadratic = np.einsum("ni,ij,nj->n", x, np.linalg.inv(cov), x)
    return -0.5 * (quadratic + np.linalg.slogdet(cov)[1] + 5 * math.log(2 * math.pi))


def test_bound_of_the_exact_posterior_is_the_log_likelihood(data):
    """The reconstruction is a sample, but its mean over the data is exact to 1e-2."""
    x, weight = data
    terms = linear_vae(weight, num_samples=50).bound_terms(x, seed=SEED)
    bound = (terms["reconstruction"] + terms["prior"]).numpy()
    assert bound.mean() == pytest.approx(-exact_log_p(x, weight).mean(), abs=0.01)


def test_importance_weights_of_the_exact_posterior_have_no_variance(data):
    x, weight = data
    log_w = linear_vae(weight).log_weights(x[:10], SEED, 4).numpy()
    np.testing.assert_allclose(log_w, np.tile(exact_log_p(x[:10], weight), (4, 1)), atol=1e-4)


def test_bound_rises_to_the_log_likelihood_with_samples(data):
    x, weight = data
    model, exact = linear_vae(weight, exact=False), exact_log_p(x[:500], weight).mean()
    bounds = [
        model.log_likelihood(x[:500], k, chunk=64, batch_size=500, verbose=0).mean()
        for k in (1, 5, 50, 2000)
    ]
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < exact + 0.01
    assert bounds[0] < exact - 0.2
    assert bounds[3] == pytest.approx(exact, abs=0.01)


def test_log_likelihood_does_not_depend_on_how_it_is_streamed(data):
    """With weights that depend on the sample's number only, 103 samples in chunks are the sum."""
    x, expected = data[0][:7], []

    def log_weights(batch, seed, k):
        del seed
        return tf.tile(tf.math.log(tf.range(1.0, k + 1.0))[:, None], [1, tf.shape(batch)[0]])

    for chunk in (1, 10, 103):
        log_p = importance_log_likelihood(log_weights, x, 103, chunk=chunk, batch_size=3, verbose=0)
        inside = [1 + i % chunk for i in range(103)]
        expected = math.log(np.sum(inside) / 103)
        np.testing.assert_allclose(log_p, np.full(7, expected), rtol=1e-5)


def test_training_a_linear_vae_reaches_the_exact_log_likelihood(data):
    """Probabilistic PCA: the bound of the best linear VAE is its log likelihood (Lucas et al.
    (2019), https://arxiv.org/abs/1911.02469, section 4)."""
    x, _ = data
    keras.utils.set_random_seed(0)
    encoder, decoder = mlp((5,), (4,), hidden=()), mlp((2,), (5,), hidden=())
    model = kgen.VAE(encoder, decoder, GaussianLikelihood(STD), seed=0)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 3200)),
        steps_per_execution=40,
    )
    model.fit(x, epochs=80, batch_size=100, verbose=0)
    model.num_samples = 100
    bound = model.evaluate(x, verbose=0, return_dict=True)["bound"]
    # The best model of rank 2 with this noise: its covariance takes the top two of the sample's.
    values, vectors = np.linalg.eigh(np.cov(x.T, ddof=0))
    top = vectors[:, -2:] * np.sqrt(values[-2:] - STD**2)
    best = -exact_log_p(x - x.mean(0), top).mean()
    assert bound == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("gradient", ["sticking_the_landing", "doubly_reparameterised"])
def test_gradient_estimators_have_the_same_mean(data, gradient):
    """The gradient of the bound of 3 samples by each estimator, averaged over many draws."""
    x, weight = data
    means, errors = [], []
    for kind in ("reparameterised", gradient):
        iwae = {"objective": "iwae", "num_samples": 3}
        options = iwae if gradient == "doubly_reparameterised" else {"num_samples": 3}
        model = linear_vae(weight, exact=False, gradient=kind, **options)

        @tf.function
        def draw(seed, model=model):
            with tf.GradientTape() as tape:
                terms = model.loss_terms(tf.repeat(x[:2], 100, axis=0), training=True, seed=seed)
                loss = tf.reduce_mean(tf.add_n(list(terms.values())))
            gradients = tape.gradient(loss, model.trainable_variables)
            return tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)

        draws = np.stack([draw(tf.constant([i, 1])) for i in range(400)])
        means.append(draws.mean(0))
        errors.append(draws.std(0) / np.sqrt(len(draws)))
    assert np.all(np.abs(means[0] - means[1]) < 5 * np.hypot(*errors) + 1e-4)
    assert np.abs(means[0]).max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "sticking_the_landing"}, "is biased for"),
        ({"beta": 2.0}, "`beta` must be 1 and"),
        ({"capacity": 5.0}, "`beta` must be 1 and"),
    ],
)
def test_what_the_bound_of_samples_does_not_have_is_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        linear_vae(data[1], objective="iwae", num_samples=3, **options)


def test_sticking_the_landing_has_no_noise_at_the_exact_posterior(data):
    x, weight = data
    spread = {}
    for gradient in ("reparameterised", "sticking_the_landing"):
        model = linear_vae(weight, gradient=gradient)
        draws = []
        for i in range(10):
            with tf.GradientTape() as tape:
                terms = model.loss_terms(x[:4], training=True, seed=tf.constant([i, 0]))
                loss = tf.reduce_mean(tf.add_n(list(terms.values())))
            draws.append(tape.gradient(loss, model.encoder.trainable_variables[0]).numpy())
        spread[gradient] = np.std(draws, axis=0).max()
    assert spread["sticking_the_landing"] < 1e-4 < 0.01 < spread["reparameterised"]


def test_iwae_of_one_sample_is_the_elbo_on_average(data):
    x, weight = data
    iwae = linear_vae(weight, exact=False, objective="iwae").loss_terms(x, seed=SEED)["iwae"]
    terms = linear_vae(weight, exact=False).bound_terms(x, seed=SEED)
    elbo = terms["reconstruction"] + terms["prior"]
    error = np.std(iwae - elbo) / np.sqrt(len(x))
    assert abs(np.mean(iwae - elbo)) < 4 * error


def test_beta_warm_up_and_capacity(make_vae, pictures):
    x = pictures["images"][:8]
    plain = make_vae().loss_terms(x, seed=SEED)
    np.testing.assert_allclose(make_vae(beta=4.0).loss_terms(x, seed=SEED)["kl"], 4 * plain["kl"])
    assert set(make_vae(beta=4.0).bound_terms(x, seed=SEED)) == {"reconstruction", "prior"}
    np.testing.assert_allclose(
        make_vae(beta=4.0).bound_terms(x, seed=SEED)["prior"], plain["kl"], rtol=1e-6
    )
    warm = make_vae(warm_up=10)
    warm.compile("sgd")
    warm.optimizer.iterations.assign(4)
    np.testing.assert_allclose(
        warm.loss_terms(x, training=True, seed=SEED)["kl"], 0.4 * plain["kl"], rtol=1e-5
    )
    np.testing.assert_allclose(warm.loss_terms(x, seed=SEED)["kl"], plain["kl"], rtol=1e-6)
    capacity = make_vae(capacity=3.0, beta=2.0).loss_terms(x, seed=SEED)["kl"]
    np.testing.assert_allclose(capacity, 2 * np.abs(plain["kl"] - 3), rtol=1e-5)


@pytest.mark.parametrize(
    "prior",
    [GaussianMixture(3, (8,)), VampPrior(5, (16, 16, 3), low=-1.0)],
    ids=["mixture", "vamp"],
)
def test_learned_priors_train_generate_and_save(make_vae, dataset, tmp_path, prior):
    model = make_vae(prior=prior)
    assert len(prior.trainable_variables) >= 1
    before = prior.trainable_variables[0].numpy()
    model.compile("adam")
    model.fit(dataset(), verbose=0)
    assert np.abs(prior.trainable_variables[0].numpy() - before).max() > 0
    images = model.generate(3, seed=1)
    assert images.shape == (3, 16, 16, 3)
    model.save_to_preset(tmp_path, "float32")
    np.testing.assert_array_equal(kgen.from_preset(tmp_path).generate(3, seed=1), images)


def test_samples_follow_seed_and_temperature(make_vae):
    model = make_vae()
    one, again, other = (model.generate(4, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    assert one.dtype == np.uint8
    cold = model.generate(4, seed=1, temperature=1e-3)
    mean = model.decode(tf.zeros([1, 8])).numpy()
    np.testing.assert_allclose(
        cold / 127.5 - 1, np.tile(np.clip(mean, -1, 1), (4, 1, 1, 1)), atol=0.01
    )


def test_the_tutorial_in_ten_lines():
    """The VAE of the Keras tutorials: Dense 784-256-2, 10 epochs, batch size 128."""
    x_train = grey.load_arrays("emoji")["images"][:1280].astype("float32") / 255
    encoder, decoder = keras.Sequential(), keras.Sequential()
    encoder.add(keras.Input((28, 28, 1)))
    encoder.add(keras.layers.Flatten())
    encoder.add(keras.layers.Dense(256, activation="relu"))
    encoder.add(keras.layers.Dense(2 * 2))
    decoder.add(keras.Input((2,)))
    decoder.add(keras.layers.Dense(256, activation="relu"))
    decoder.add(keras.layers.Dense(784))
    decoder.add(keras.layers.Reshape((28, 28, 1)))
    vae = kgen.VAE(encoder, decoder)
    vae.compile("adam")
    history = vae.fit(x_train, epochs=10, batch_size=128, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    # The decoder is part of the model, and the KL is a sum over the code, as in the paper.
    assert len(vae.trainable_variables) == 8
    q = vae.posterior(x_train[:5])
    kl = 0.5 * (np.exp(2 * q.log_std) + q.mean**2 - 1 - 2 * q.log_std).numpy().sum(-1)
    np.testing.assert_allclose(vae.bound_terms(x_train[:5], seed=SEED)["prior"], kl, rtol=1e-4)


def test_collapse_is_counted_drawn_and_announced(make_vae, dataset, pictures, tmp_path):
    collapsed = make_vae()
    last = collapsed.encoder.layers[-1]
    last.set_weights([0 * w for w in last.get_weights()])
    collapsed.compile(keras.optimizers.SGD(0.0))
    with pytest.warns(UserWarning, match="0 of 8 units"):
        logs = collapsed.fit(
            dataset(), verbose=0, callbacks=[PosteriorCollapse(dataset(), tmp_path)]
        ).history
    assert logs["active_units"] == [0.0]
    assert (tmp_path / "collapse_0001.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="`every` must be"):
        PosteriorCollapse(dataset(), every=0)


def test_log_mean_exp_is_exact_for_large_numbers():
    log_w = tf.constant([[1000.0], [1000.0 + math.log(3)]])
    np.testing.assert_allclose(log_mean_exp(log_w), [1000 + math.log(2)], rtol=1e-6)


MEANS = np.float32([[0.5, -1.0], [2.0, 0.3], [-1.5, 0.7]])  # the embeddings of three classes


def conditional_vae(weight, exact=True):
    """`linear_vae` of x - shift c, c being the embedding of a label, and that shift."""
    shift = np.random.default_rng(3).normal(size=(2, 5)).astype("float32")
    plain = linear_vae(weight, exact)
    encoder, decoder = mlp([(5,), (2,)], (4,), hidden=()), mlp([(2,), (2,)], (5,), hidden=())
    kernel, bias = plain.encoder.get_weights()
    encoder.set_weights([np.concatenate([kernel, -shift @ kernel]), bias])
    kernel, bias = plain.decoder.get_weights()
    decoder.set_weights([np.concatenate([kernel, shift]), bias])
    labels = Labels(3, 2)
    labels.table.assign(np.concatenate([MEANS, np.zeros((1, 2))]))
    model = kgen.VAE(encoder, decoder, GaussianLikelihood(STD), conditioner=labels, seed=0)
    return model, shift


@pytest.fixture(scope="module")
def labelled_data(data):
    """x = shift c + W z + STD eps, the labels, and the exact log p(x | c)."""
    x, weight = data
    model, shift = conditional_vae(weight)
    labels = np.random.default_rng(4).integers(0, 3, len(x))
    return x + MEANS[labels] @ shift, labels, exact_log_p(x, weight), model


def test_importance_weights_of_the_conditional_posterior_are_exact(labelled_data):
    x, labels, exact, model = labelled_data
    log_w = model.log_likelihood(x[:10], 3, condition=labels[:10], batch_size=4, verbose=0)
    np.testing.assert_allclose(log_w, exact[:10], atol=1e-4)
    wrong = model.log_likelihood(x[:10], 3, condition=(labels[:10] + 1) % 3, verbose=0)
    assert np.abs(wrong - exact[:10]).min() > 0.1


def test_bound_of_the_conditional_posterior_is_the_log_likelihood(labelled_data):
    x, labels, exact, model = labelled_data
    terms = model.bound_terms({"images": tf.constant(x), "labels": labels}, seed=SEED)
    bound = (terms["reconstruction"] + terms["prior"]).numpy()
    assert bound.mean() == pytest.approx(-exact.mean(), abs=0.05)
    # The same KL as without a condition, since the posterior is that of x - shift c.
    z = model.encode(x, condition=labels)
    np.testing.assert_allclose(model.posterior(x, condition=labels).mean, z, rtol=1e-6)
    by_dictionary = model.encode(x, condition=model.conditioner(labels))
    np.testing.assert_allclose(by_dictionary, z, rtol=1e-6)


def test_samples_of_each_condition_have_its_mean_and_covariance(labelled_data, data):
    *_, model = labelled_data
    _, shift = conditional_vae(data[1])
    x = model.generate(20000, condition=[2, 0], seed=0)
    for part, label in zip(np.split(x, 2), (2, 0)):
        np.testing.assert_allclose(part.mean(0), MEANS[label] @ shift, atol=0.06)
        np.testing.assert_allclose(np.cov(part.T), data[1] @ data[1].T, atol=0.15)
    one = model.generate(condition=1, seed=3)
    assert one.shape == (1, 5)
    np.testing.assert_array_equal(one, model.generate(1, condition=[1], seed=3))


def test_training_a_conditional_vae_learns_the_condition(labelled_data):
    """From other embeddings and a wider posterior the bound of held-out data rises."""
    x, labels, exact, _ = labelled_data
    weight = np.random.default_rng(8).normal(size=(5, 2)).astype("float32")
    model, _ = conditional_vae(weight, exact=False)
    model.conditioner.table.assign(np.zeros((4, 2)))
    batch = {"images": x, "labels": labels}
    model.compile(keras.optimizers.Adam(0.01), steps_per_execution=20)
    before = model.evaluate(batch, verbose=0, return_dict=True)["bound"]
    model.fit(batch, epochs=40, batch_size=100, verbose=0)
    after = model.evaluate(batch, verbose=0, return_dict=True)["bound"]
    assert np.abs(model.conditioner.table.numpy()[:3]).max() > 0.1
    assert after < before - 1
    assert -exact.mean() - 0.05 < after < -exact.mean() + 0.1


def test_a_conditional_model_is_saved_and_exported(labelled_data, tmp_path):
    x, labels, _, model = labelled_data
    x, labels = x[:4], labels[:4].astype("int32")
    expected = model.reconstruct(x, condition=labels)
    model.save_to_preset(tmp_path / "preset", "float32")
    again = kgen.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(again.reconstruct(x, condition=labels), expected, rtol=1e-6)
    np.testing.assert_array_equal(
        again.generate(2, condition=[0, 1], seed=4), model.generate(2, condition=[0, 1], seed=4)
    )
    kgen.export_saved_model(model, tmp_path / "export")
    loaded = tf.saved_model.load(tmp_path / "export")
    codes = loaded.encode(images=x, labels=labels)["latents"]
    np.testing.assert_allclose(codes, model.encode(x, condition=labels), rtol=1e-5)
    images = loaded.signatures["decode"](latents=codes, labels=labels)["images"]
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-5)
    drawn = loaded.generate(labels=labels, temperature=1.0, seed=tf.constant([7, 0]))["images"]
    np.testing.assert_allclose(drawn, model.generate(condition=labels, seed=7), rtol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`temperature` must be positive"):
        loaded.generate(labels=labels, temperature=0.0, seed=tf.constant([7, 0]))


def test_columns_of_a_large_scale_train_without_nan():
    """Four columns up to 1e5: a log standard deviation that grows with them would overflow."""
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).uniform(0, 1e5, (256, 4)).astype("float32")
    encoder = mlp((4,), (4,), hidden=(32,), activation="relu")
    assert np.abs(encoder(x).numpy()).max() > 1000
    model = kgen.VAE(encoder, mlp((2,), (4,), activation="relu"), GaussianLikelihood(1.0), seed=0)
    model.compile("adam")
    with pytest.warns(UserWarning, match="values of the order of"):
        history = model.fit(x, epochs=3, batch_size=32, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)
