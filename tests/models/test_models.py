"""Every model: it learns from real pictures, saves, reloads, and explains wrong input."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.networks import mlp
from kgen.networks.blocks import dtype_policy
from kgen.serialization import serializable

# The batches have prompts for the models that take them.
pytestmark = pytest.mark.filterwarnings("ignore:The entries .* of a batch are not used")

MODELS = [
    "make_plain",
    "make_vae",
    "make_vqvae",
    "make_hvae",
    "make_dense_autoencoder",
    "make_diffusion",
]


@pytest.fixture(scope="session")
def make_dense_autoencoder():
    """A KL autoencoder of layers that are traced fast; convolutions are in `make_diffusion`."""

    def make(**options):
        keras.utils.set_random_seed(1)
        encoder = mlp((16, 16, 3), (4, 4, 8), hidden=(16,), name="encoder")
        decoder = mlp((4, 4, 4), (16, 16, 3), hidden=(16,), name="decoder")
        return kgen.KLAutoencoder(encoder, decoder, **{"seed": 0, **options})

    return make


@pytest.fixture(params=MODELS)
def make(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module", params=MODELS)
def built(request):
    """A model whose weights no test changes."""
    return request.getfixturevalue(request.param)()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("make_plain", {}),
        ("make_vae", {}),
        ("make_vae", {"likelihood": "logistic_mixture"}),
        ("make_vae", {"objective": "iwae", "num_samples": 3}),
        ("make_vqvae", {}),
        ("make_hvae", {}),
        pytest.param("make_hvae", {"kind": "conv"}, marks=pytest.mark.slow),
        ("make_dense_autoencoder", {}),
        ("make_diffusion", {"dtype": "mixed_bfloat16"}),
    ],
)
def test_fit_lowers_the_loss(request, kind, options, dataset):
    model = request.getfixturevalue(kind)(**options)
    model.compile(run_eagerly=kind == "make_diffusion")
    before = model.evaluate(dataset(), verbose=0, return_dict=True)
    model.compile(keras.optimizers.Adam(3e-3))
    history = model.fit(dataset(), epochs=4, verbose=0).history
    assert history["loss"][-1] < 0.95 * history["loss"][0]
    assert before["loss"] > history["loss"][-1]
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_data_sets_of_any_floating_type_are_those_of_float32(make_vae, make_plain, dtype):
    """On numbers that all types have."""
    x = np.random.default_rng(0).integers(-8, 9, (4, 16, 16, 3)) / 8
    for make in (make_vae, make_plain):
        model, losses = make(), []
        model.compile(run_eagerly=True)
        for values in (x.astype("float32"), x.astype(dtype)):
            model.seeds.count.assign(0)
            data = tf.data.Dataset.from_tensor_slices(values).batch(4)
            losses.append(model.evaluate(data, verbose=0))
            if isinstance(model, kgen.VAE):
                losses[-1] += list(model.log_likelihood(values, 2, verbose=0))
        assert losses[0] == losses[1]
        model.fit(data, verbose=0)


def test_terms_are_per_example_and_sum_to_the_loss(make, dataset):
    model = make()
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    batch = next(iter(dataset(128)))
    terms = model.loss_terms(batch, seed=tf.constant([1, 2]))
    assert {value.shape for value in terms.values()} == {tf.TensorShape([128])}
    logs = model.evaluate(dataset(128), verbose=0, return_dict=True)
    assert {"loss", *terms} <= set(logs)
    np.testing.assert_allclose(logs["loss"], sum(logs[name] for name in terms), rtol=1e-5)


def test_the_same_seed_trains_the_same_weights(make, dataset):
    weights = []
    for seed in (3, 3, 4):
        model = make(seed=seed)
        model.compile(keras.optimizers.SGD(0.5, global_clipnorm=1.0), run_eagerly=True)
        model.fit(dataset().take(2), verbose=0)
        weights.append(np.concatenate([w.numpy().ravel() for w in model.trainable_variables]))
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)
    assert np.abs(weights[0] - weights[2]).max() > 1e-5


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16"])
@pytest.mark.parametrize("kind", ["make_vqvae", "make_autoencoder"])
def test_a_call_in_half_precision_is_the_reconstruction(request, kind, dtype, pictures):
    """What a model keeps beside its networks stays in full precision, also in `predict`."""
    full = request.getfixturevalue(kind)()
    with dtype_policy(dtype):
        half = request.getfixturevalue(kind)()
    half.set_weights(full.get_weights())
    x = pictures["images"][:4]
    for model in (full, half):
        model.compile(run_eagerly=True)
    np.testing.assert_array_equal(half.predict(x, verbose=0), half.reconstruct(x))
    assert np.corrcoef(half(x).numpy().ravel(), full(x).numpy().ravel())[0, 1] > 0.9


def test_averages_follow_the_recursion(make, dataset):
    model = make(ema_decay=0.5)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    variables = {v.path: v for v in model.trainable_variables}
    expected = {path: v.numpy() for path, v in variables.items()}
    for n in range(4):
        model.fit(dataset().take(1), verbose=0)
        decay = min(0.5, (1 + n) / (10 + n))
        for path, v in variables.items():
            expected[path] = decay * expected[path] + (1 - decay) * v.numpy()
    with model.averaged():
        for path, v in variables.items():
            np.testing.assert_allclose(tf.convert_to_tensor(v), expected[path], atol=1e-5)
    assert max(np.abs(v.numpy() - expected[path]).max() for path, v in variables.items()) > 1e-3


def test_averaged_weights_are_used_inside_the_context_only(make):
    model = make(ema_decay=0.9)
    variable = model.trainable_variables[0]
    for weight in model.averages.values:
        weight.assign(tf.ones_like(weight))
    before = variable.numpy()
    with model.averaged():
        np.testing.assert_array_equal(tf.convert_to_tensor(variable), np.ones_like(before))
    np.testing.assert_array_equal(variable, before)


def test_other_settings_leave_the_networks_and_their_weights(make, pictures):
    model = make(ema_decay=None)
    rng = np.random.default_rng(0)
    for weight in model.weights:  # such as the codebook, which is in no network
        if weight.dtype == "float32":
            weight.assign(rng.normal(0, 0.1, weight.shape))
    again = model.with_settings(ema_decay=0.5, seed=7)
    assert type(again) is type(model)
    assert again.ema_decay == 0.5
    assert again.seeds.root.numpy()[0] != model.seeds.root.numpy()[0]
    shared = {id(v) for v in model.trainable_variables}
    assert {id(v) for v in again.trainable_variables} == shared
    for weight, average in again.averages.pairs():
        np.testing.assert_array_equal(average, weight)
    batch = pictures if isinstance(model, kgen.LatentDiffusion) else pictures["images"]
    one, other = (m.loss_terms(batch, seed=tf.constant([1, 2])) for m in (model, again))
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)


def test_other_settings_keep_the_precision_of_the_model(make_vae):
    with dtype_policy("mixed_float16"):
        model = make_vae()
    again = model.with_settings(beta=2.0)
    assert again.dtype_policy.name == model.dtype_policy.name == "mixed_float16"
    again.compile()
    assert isinstance(again.optimizer, keras.optimizers.LossScaleOptimizer)


def test_a_frozen_part_says_that_it_has_nothing_to_train(make_diffusion, dataset):
    frozen = make_diffusion().autoencoder.with_settings(latent_noise=0.2, ema_decay=0.9)
    frozen.compile()
    with pytest.raises(ValueError, match="KLAutoencoder has nothing to train: .* are frozen"):
        frozen.fit(dataset(), verbose=0)
    frozen.encoder.trainable = frozen.decoder.trainable = True
    again = frozen.with_settings(ema_decay=0.9)
    assert len(again.averages.values) == len(again.trainable_variables) > 0
    before = again.trainable_variables[0].numpy()
    again.compile(run_eagerly=True)
    again.fit(dataset().take(1), verbose=0)
    assert np.abs(again.trainable_variables[0] - before).max() > 0


def test_a_keras_file_remembers_how_the_model_was_compiled(
    make_dense_autoencoder, tmp_path, pictures
):
    discriminator = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 4, 4)])
    model = make_dense_autoencoder(discriminator=discriminator, adversarial=0.1)
    model.compile("sgd", keras.optimizers.RMSprop(3e-3), skip_above=5.0)
    model.fit(pictures["images"][:8], verbose=0)
    model.save(tmp_path / "model.keras")
    again = kgen.load_model(tmp_path / "model.keras")
    assert again.skip_above == 5.0
    assert isinstance(again.optimizer, keras.optimizers.SGD)
    optimizer = again.discriminator_optimizer
    assert isinstance(optimizer, keras.optimizers.RMSprop)
    assert int(optimizer.iterations) == int(model.discriminator_optimizer.iterations) == 1
    for one, other in zip(optimizer.variables, model.discriminator_optimizer.variables):
        np.testing.assert_array_equal(one, other)


def test_a_setting_that_is_none_is_named(built):
    with pytest.raises(ValueError, match=r"`settings` must be one of .*'seed'.*settings='sede'"):
        built.with_settings(sede=1)


def test_a_setting_that_changes_the_shape_of_a_weight(make_vqvae):
    with pytest.raises(ValueError, match="`settings` must leave the shapes.*: num_codes"):
        make_vqvae().with_settings(num_codes=7)


def test_presets_hold_the_averaged_weights(make, tmp_path):
    model = make(ema_decay=0.9)
    randomise_averages(model)
    model.save_to_preset(tmp_path, dtype="float32")
    again = kgen.from_preset(tmp_path)
    expected, trained = averages(model), {v.path: v.numpy() for v in again.trainable_variables}
    restored = averages(again)
    assert set(trained) == set(restored) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(trained[path], value)
        np.testing.assert_array_equal(restored[path], value)


def randomise_averages(model):
    rng = np.random.default_rng(0)
    for weight in model.averages.values:
        weight.assign(rng.normal(0, 0.1, weight.shape))


def averages(model):
    with model.averaged():
        return {v.path: tf.convert_to_tensor(v).numpy() for v in model.trainable_variables}


def test_gradients_are_averaged_over_devices(make_dense_autoencoder, dataset, strategies):
    """With the same noise for each half of the batch, two devices equal one.

    The batches hold prompts too, of which Keras would take the mean over the devices.
    """
    weights = []
    for devices, strategy in enumerate(strategies, 1):
        with strategy.scope():
            model = make_dense_autoencoder()
            model.compile(keras.optimizers.SGD(0.1))
        model.loss_terms = _by_halves(model.loss_terms, 2 // devices)
        model.fit(dataset(32).take(1), verbose=0)
        weights.append(np.concatenate([w.numpy().ravel() for w in model.trainable_variables]))
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)


def _by_halves(loss_terms, parts):
    """The loss of 16 examples after the other, each time with the same noise."""

    def by_halves(batch, training=False, seed=None):
        halves = [{k: v[16 * i : 16 * (i + 1)] for k, v in batch.items()} for i in range(parts)]
        terms = [loss_terms(half, seed=tf.constant([5, 6])) for half in halves]
        return {name: tf.concat([term[name] for term in terms], 0) for name in terms[0]}

    return by_halves


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (lambda m, d: m.compile("adam", loss="mse"), ValueError, "defines its own loss"),
        (
            lambda m, d: m.compile(keras.optimizers.Adam(use_ema=True)),
            ValueError,
            "must not have `use_ema`",
        ),
        (
            lambda m, d: m.fit(d.map(lambda b: (b, b["prompts"])), verbose=0),
            ValueError,
            "inputs only|Targets must be the entry",
        ),
        (lambda m, d: m.fit(d.map(lambda b: {"x": b["images"]}), verbose=0), ValueError, "images"),
    ],
)
def test_misuse_is_explained(built, dataset, action, error, message):
    built.compile("adam", run_eagerly=True)
    with pytest.raises(error, match=message):
        action(built, dataset())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_ema_decay_is_checked(built, decay):
    with pytest.raises(ValueError, match="`ema_decay` must be"):
        built.with_settings(ema_decay=decay)


def test_keras_file_round_trips(make, tmp_path, dataset):
    model = make(ema_decay=0.9)
    randomise_averages(model)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path, compile=False)
    restored = averages(again)
    for name, value in averages(model).items():
        np.testing.assert_array_equal(restored[name], value)
    batch = next(iter(dataset(8)))
    seed = tf.constant([1, 2])
    for a, b in zip(
        model.loss_terms(batch, seed=seed).values(),
        again.loss_terms(batch, seed=seed).values(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)


@serializable
class Unnamed(keras.Model):
    """A network whose layers Keras names after a counter."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        x = h = keras.Input((3,))
        for width in (4, 5, 6, 3):
            h = keras.layers.Dense(width)(h)
        self.graph = keras.Model(x, h)
        self.built = True

    input_shape = output_shape = (None, 3)

    def call(self, x, training=False):
        return self.graph(x)


@pytest.mark.parametrize("offset", range(0, 10, 3))
def test_averages_find_the_weights_of_layers_without_names(tmp_path, offset):
    """Names such as dense_9 and dense_10 sort otherwise than dense_11 and dense_12."""
    for _ in range(offset):
        keras.layers.Dense(1)
    model = kgen.Autoencoder(Unnamed(), Unnamed(), ema_decay=0.9)
    randomise_averages(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    x = np.ones((2, 3), "float32")
    with model.averaged():
        expected = model.reconstruct(x).numpy()
    with again.averaged():
        np.testing.assert_allclose(again.reconstruct(x), expected, rtol=1e-6)
