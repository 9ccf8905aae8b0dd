"""What a Keras user relies on in `fit` and `evaluate`, each against losses computed by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels
from kgen.models.generative_model import images_of
from kgen.training.model import TermsModel, weighted

# The batches have prompts for the models that take them.
pytestmark = pytest.mark.filterwarnings("ignore:The entries .* of a batch are not used")

X = np.random.default_rng(0).uniform(0.1, 0.9, (12, 4)).astype("float32")


class Line(TermsModel):
    """Terms (w - x)^2 and w^2 / 2 of one weight: gradients that can be written down."""

    def __init__(self, **options):
        super().__init__(**options)
        self.w = self.add_weight(shape=(), initializer="zeros", name="w")
        self.built = True
        self.start_averaging()

    def loss_terms(self, batch, training=False, seed=None):
        x = images_of(batch)[:, 0]
        return {"square": (self.w - x) ** 2, "pull": tf.fill(tf.shape(x), self.w**2 / 2)}


def line(ema_decay=None, **options):
    model = Line(ema_decay=ema_decay, seed=0)
    model.compile(keras.optimizers.SGD(0.1), **options)
    return model


def fit(model, x=X, **options):
    return model.fit(x, **{"batch_size": 4, "shuffle": False, "verbose": 0, **options}).history


def test_steps_are_those_by_hand():
    model = line()
    history = fit(model, epochs=2)
    w, losses = 0.0, []
    for epoch in range(2):
        for start in (0, 4, 8):
            x = X[start : start + 4, 0].astype("float64")
            losses.append(np.mean((w - x) ** 2) + w**2 / 2)
            w -= 0.1 * (np.mean(2 * (w - x)) + w)
        assert history["loss"][epoch] == pytest.approx(np.mean(losses[3 * epoch :]), rel=1e-5)
    assert float(model.w) == pytest.approx(w, rel=1e-5)
    assert history["loss"] == pytest.approx(np.add(history["square"], history["pull"]), rel=1e-6)


# -- regularisers ------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("test_model")
class Energy(keras.layers.Layer):
    """Adds a loss of its own: the mean square of what it sees."""

    def call(self, x):
        self.add_loss(0.25 * tf.reduce_mean(x**2))
        return x


def networks(regularizer=None, energy=False):
    """Small ones of known weights."""
    layer = keras.layers.Dense
    kinds = {"kernel_regularizer": regularizer}
    inside = [Energy()] if energy else []
    encoder = keras.Sequential([keras.Input((4,)), layer(2, **kinds), *inside])
    decoder = keras.Sequential([keras.Input((2,)), layer(4)])
    rng = np.random.default_rng(1)
    for network in (encoder, decoder):
        network.set_weights([rng.normal(0, 0.4, w.shape) for w in network.get_weights()])
    return encoder, decoder


def test_regularisers_are_in_the_loss():
    """The sum of 0.5 w^2 bit for bit, added to the loss without them."""
    bare, tied = (
        kgen.Autoencoder(*networks(r), seed=0) for r in (None, keras.regularizers.L2(0.5))
    )
    for model in (bare, tied):
        model.compile(keras.optimizers.SGD(0.05))
    logs = [model.evaluate(X, verbose=0, return_dict=True) for model in (bare, tied)]
    kernel = tied.encoder.layers[0].kernel.numpy()
    penalty = np.float32(0.5) * np.sum(np.square(kernel))
    assert np.float32(logs[1]["regularization"]) == penalty
    np.testing.assert_allclose(logs[1]["loss"], logs[0]["loss"] + penalty, rtol=2e-7)
    assert "regularization" not in logs[0]


def test_regularisers_have_their_gradient():
    """Of one step of SGD: the kernel moves by 0.05 (2 0.5 w) more, all else as without."""
    bare, tied = (
        kgen.Autoencoder(*networks(r), seed=0) for r in (None, keras.regularizers.L2(0.5))
    )
    kernel = tied.encoder.layers[0].kernel.numpy()
    for model in (bare, tied):
        model.compile(keras.optimizers.SGD(0.05))
        model.fit(X, batch_size=12, verbose=0)
    first, *others = tied.trainable_variables
    plain, *rest = bare.trainable_variables
    np.testing.assert_allclose(first.numpy(), plain.numpy() - 0.05 * kernel, atol=1e-6)
    for one, other in zip(others, rest, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


def test_losses_that_a_network_adds_are_in_the_loss():
    model = kgen.Autoencoder(*networks(energy=True), seed=0)
    model.compile(keras.optimizers.SGD(0.05))
    plain = kgen.Autoencoder(*networks(), seed=0)
    plain.compile()
    logs = model.evaluate(X, batch_size=12, verbose=0, return_dict=True)
    bare = plain.evaluate(X, batch_size=12, verbose=0, return_dict=True)
    code = X @ model.encoder.get_weights()[0] + model.encoder.get_weights()[1]
    assert logs["regularization"] == pytest.approx(0.25 * np.mean(code**2), rel=1e-5)
    assert logs["loss"] == pytest.approx(bare["loss"] + logs["regularization"], rel=1e-6)
    history = model.fit(X, verbose=0).history
    assert history["regularization"][0] > 0


@pytest.mark.parametrize("kind", ["make_plain", "make_vae", "make_vqvae", "make_autoencoder"])
def test_every_model_counts_its_regularisers(kind, request, pictures):
    model = request.getfixturevalue(kind)()
    layer = next(v for v in model.encoder.layers if getattr(v, "kernel", None) is not None)
    x = pictures["images"][:8]
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    before = model.evaluate(x, verbose=0, return_dict=True)["loss"]
    layer.kernel.regularizer = keras.regularizers.L1(2.0)
    logs = model.evaluate(x, verbose=0, return_dict=True)
    expected = 2 * np.abs(layer.kernel.numpy()).sum()
    assert logs["regularization"] == pytest.approx(expected, rel=1e-5)
    assert logs["loss"] == pytest.approx(before + expected, rel=1e-5)
    history = model.fit(x, verbose=0).history
    assert history["regularization"] == pytest.approx([expected], rel=1e-5)


# -- weights of examples -----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "entry", "data set", "resumable"])
def test_a_weight_of_two_counts_an_example_twice(how, tmp_path):
    """Six examples of weights 2, 0 and 1, against those repeated, left out and once: six again."""
    weights, x = np.array([2, 0, 1, 1, 2, 0], "float32"), X[:6]
    expected = line()
    fit(expected, np.repeat(x, weights.astype(int), axis=0), batch_size=6)
    model, options = line(), {"batch_size": 6, "shuffle": False, "verbose": 0}
    if how == "argument":
        history = model.fit(x, sample_weight=weights, **options).history
    elif how == "entry":
        history = model.fit({"images": x, "sample_weight": weights}, **options).history
    elif how == "data set":
        data = tf.data.Dataset.from_tensor_slices((x, x, weights)).batch(6)
        history = model.fit(data, verbose=0).history
    else:
        resume = kgen.callbacks.Resume(tmp_path)
        history = model.fit(x, sample_weight=weights, callbacks=[resume], **options).history
    assert float(model.w) == pytest.approx(float(expected.w), rel=1e-6)
    by_hand = np.mean(weights * x[:, 0].astype("float64") ** 2)
    assert history["loss"][0] == pytest.approx(by_hand, rel=1e-5)


def test_weights_count_in_evaluation_and_validation():
    weights, x = np.array([2, 0, 1, 1, 2, 0], "float32"), X[:6]
    model = line()
    expected = model.evaluate(np.repeat(x, weights.astype(int), axis=0), verbose=0)
    assert model.evaluate(x, sample_weight=weights, verbose=0) == pytest.approx(expected, rel=1e-6)
    model = line(steps_per_execution=1)
    model.optimizer.learning_rate = 0.0
    for data in ((x, x, weights), (x, None, weights)):
        history = model.fit(x, validation_data=data, verbose=0).history
        assert history["val_loss"] == pytest.approx([expected[0]], rel=1e-6)


@pytest.mark.parametrize(
    ("x", "weights", "message"),
    [
        (X, np.ones(5), "same number of examples.*12 of 'images', 5 of 'sample_weight'"),
        ({"images": X, "sample_weight": np.ones(12)}, np.ones(12), "in one place only"),
    ],
)
def test_weights_that_do_not_fit(x, weights, message):
    with pytest.raises(ValueError, match=message):
        line().fit(x, sample_weight=weights, verbose=0)


def test_weights_of_classes_are_those_of_their_examples():
    labels = np.arange(12) % 3
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR(5.0, -5.0))
    results = []
    for options in ({"class_weight": {0: 2.0, 1: 0.5}}, {"sample_weight": [2.0, 0.5, 1.0] * 4}):
        keras.utils.set_random_seed(0)
        network = kgen.networks.TimeMLP(4, width=8, blocks=1, pooled=4)
        model = kgen.DiffusionModel(
            network, process, conditioner=Labels(3, 4), grey_levels=None, seed=0
        )
        model.compile(keras.optimizers.SGD(0.01))
        if "sample_weight" in options:
            options = {"sample_weight": np.array(options["sample_weight"], "float32")}
        history = model.fit(X, labels, batch_size=12, shuffle=False, verbose=0, **options).history
        results.append(history["loss"])
    np.testing.assert_allclose(*results, rtol=1e-6)
    with pytest.raises(ValueError, match="`class_weight` needs labels"):
        model.fit({"images": X, "labels": labels}, class_weight={0: 2.0}, verbose=0)


def test_weighted_terms():
    terms = weighted({"a": tf.constant([1.0, 2.0])}, tf.constant([3, 0]))
    np.testing.assert_array_equal(terms["a"], [3.0, 0.0])


# -- evaluation --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["make_vae", "make_hvae", "make_autoencoder", "make_diffusion"])
def test_evaluation_is_the_same_every_time(kind, request, dataset):
    model = request.getfixturevalue(kind)()
    model.compile(keras.optimizers.SGD(0.0))
    data = dataset(8).take(3)
    first = model.evaluate(data, verbose=0, return_dict=True)
    model.fit(data, validation_data=data, verbose=0)  # moves the stream of training noise
    again = model.evaluate(data, verbose=0, return_dict=True)
    assert first == again
    history = model.fit(data, validation_data=data, epochs=2, verbose=0).history
    assert history["val_loss"] == [first["loss"]] * 2
    halves = [model.evaluate(data.skip(i).take(1), verbose=0) for i in (0, 1)]
    assert halves[0] != halves[1]


def test_training_noise_is_another_one_in_each_step(make_vae, pictures):
    model = make_vae()
    model.compile(keras.optimizers.SGD(0.0))
    x = pictures["images"][:8]
    history = model.fit(x, epochs=3, shuffle=False, verbose=0).history
    assert len(set(history["loss"])) == 3


def test_the_seed_of_keras_decides_where_there_is_none(make_vae):
    roots = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        encoder, decoder = networks()
        model = kgen.Autoencoder(encoder, decoder)
        roots.append(tuple(model.seeds.root.numpy().tolist()))
    assert roots[0] == roots[1] != roots[2]


# -- skipped steps -----------------------------------------------------------------------------


def with_nan():
    x = X.copy()
    x[5, 0] = np.nan
    return tf.data.Dataset.from_tensor_slices(x).batch(4)


def test_a_skipped_step_counts_for_nothing():
    """The mean of the epoch is that of the other two steps, and the weight theirs."""
    model = line(skip_above=float("inf"), ema_decay=0.5)
    history = model.fit(with_nan(), verbose=0).history
    other = line(ema_decay=0.5)
    expected = fit(other, np.concatenate([X[:4], X[8:]]))
    assert float(model.w) == float(other.w)
    assert history["loss"][0] == pytest.approx(expected["loss"][0], rel=1e-6)
    assert history["square"][0] == pytest.approx(expected["square"][0], rel=1e-6)
    assert (int(model.skipped_steps), int(model.skipped_in_a_row)) == (1, 0)
    assert int(model.averages.updates) == int(other.averages.updates) == 2


def test_a_norm_above_the_bound_is_skipped():
    """The gradient of the first batch is -2 mean(x); of one with x = 100 it is -200."""
    x = np.concatenate([X[:4], np.full((4, 4), 100.0, "float32"), X[8:]])
    model = line(skip_above=50.0)
    fit(model, x)
    other = line()
    fit(other, np.concatenate([X[:4], X[8:]]))
    assert float(model.w) == float(other.w)
    assert int(model.skipped_steps) == 1


def test_early_stopping_survives_a_skipped_step():
    model = line(skip_above=float("inf"))
    stopping = keras.callbacks.EarlyStopping(monitor="loss", patience=2)
    history = model.fit(with_nan(), epochs=5, callbacks=[stopping], verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert len(history["loss"]) == 5


@pytest.mark.parametrize("value", [float("nan"), -1, 0])
def test_bounds_that_are_none(value):
    with pytest.raises(ValueError, match=r"`skip_above` must be in \(0, inf\]"):
        line(skip_above=value)


@pytest.mark.parametrize("value", [True, "1"])
def test_bounds_that_are_no_numbers(value):
    with pytest.raises(TypeError, match="`skip_above` must be a number"):
        line(skip_above=value)


# -- compile and data --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loss", "metrics", "weighted_metrics", "loss_weights"])
def test_what_compile_does_not_take(name):
    with pytest.raises(ValueError, match=f"`{name}` must not be given: Line defines its own loss"):
        line(**{name: ["mae"]})


def test_the_inputs_may_be_their_own_targets():
    """As tutorials of autoencoders have it, also for validation."""
    histories = []
    for arguments, validation in (((X,), X), ((X, X), (X, X)), ((X, X.copy()), (X, X.copy()))):
        model = line()
        options = {"validation_data": validation, "batch_size": 4, "shuffle": False, "verbose": 0}
        histories.append(model.fit(*arguments, **options).history)
    assert histories[0] == histories[1] == histories[2]
    assert "val_loss" in histories[0]
    data = tf.data.Dataset.from_tensor_slices((X, X)).batch(4)
    assert model.evaluate(data, verbose=0) == model.evaluate(X, batch_size=4, verbose=0)


def test_other_targets_need_a_condition():
    for y in (np.arange(12), X + 0.1):
        with pytest.raises(ValueError, match="inputs only.*give the model a conditioner"):
            line().fit(X, y, verbose=0)


def test_labels_beside_the_inputs_go_to_the_conditioner():
    labels = np.arange(12) % 3
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR(5.0, -5.0))
    losses = []
    pairs = tf.data.Dataset.from_tensor_slices((X, labels)).batch(12)
    for data in ((X, labels), (pairs,), ({"images": X, "labels": labels},)):
        keras.utils.set_random_seed(0)
        network = kgen.networks.TimeMLP(4, width=8, blocks=1, pooled=4)
        model = kgen.DiffusionModel(
            network, process, conditioner=Labels(3, 4), grey_levels=None, seed=0
        )
        model.compile(keras.optimizers.SGD(0.01))
        options = {} if isinstance(data[0], tf.data.Dataset) else {"batch_size": 12}
        options |= {"shuffle": False, "verbose": 0}
        losses.append(model.fit(*data, **options).history["loss"][0])
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)


@pytest.mark.parametrize("kind", ["py_function", "generator"])
def test_pipelines_of_unknown_shape(kind):
    """`tf.py_function` and `from_generator` forget the shapes of what they yield."""
    encoder, decoder = networks()
    model = kgen.Autoencoder(encoder, decoder, seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    if kind == "py_function":
        data = tf.data.Dataset.from_tensor_slices(X).batch(4)
        data = data.map(lambda x: tf.py_function(lambda v: v, [x], tf.float32))
    else:
        parts = [X[i : i + 4] for i in (0, 4, 8)]
        data = tf.data.Dataset.from_generator(lambda: iter(parts), tf.float32)
        data = data.apply(tf.data.experimental.assert_cardinality(3))
    expected = model.evaluate(X, batch_size=4, verbose=0)
    np.testing.assert_allclose(model.evaluate(data, verbose=0), expected, rtol=1e-6)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("kind", ["PyDataset", "generator", "data frame"])
def test_other_kinds_of_data_are_checked_and_trained_on(kind):
    class Batches(keras.utils.PyDataset):
        def __init__(self, x):
            super().__init__()
            self.x = x

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return self.x[4 * i : 4 * i + 4]

    class Frame:
        """What `fit` asks of a data frame."""

        def __init__(self, x):
            self.x = x

        def to_numpy(self):
            return self.x

    def make(x):
        if kind == "PyDataset":
            return Batches(x)
        return Frame(x) if kind == "data frame" else (x[i : i + 4] for i in (0, 4, 8))

    encoder, decoder = networks()
    model = kgen.Autoencoder(encoder, decoder, seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    options = {"batch_size": 4, "shuffle": False} if kind == "data frame" else {}
    if kind == "generator":
        options = {"steps_per_epoch": 3}
    loss = model.fit(make(X), verbose=0, **options).history["loss"][0]
    expected = model.evaluate(X, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(expected, rel=1e-5)
    bad = X.copy()
    bad[1, 1] = np.nan
    with pytest.raises(ValueError, match="`x` must be finite"):
        model.fit(make(bad), verbose=0, **options)
