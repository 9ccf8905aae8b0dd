"""Averaged weights find their weights again in a model that is rebuilt, whatever Keras names it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.layer_tree import places
from kgen.networks import mlp
from kgen.serialization import serializable
from kgen.training.averaging import WeightAverages


def two_sequentials():
    """Dense layers and convolutions whose display names differ each time they are made."""
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, 2, "same"),
            keras.layers.Flatten(),
            keras.layers.Dense(8),
        ]
    )
    decoder = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(128),
            keras.layers.Reshape((4, 4, 8)),
            keras.layers.Conv2DTranspose(1, 3, 2, "same"),
        ]
    )
    return kgen.VAE(encoder, decoder, ema_decay=0.9, seed=0), (8, 8, 1)


def batch_normalisation():
    dense, norm = keras.layers.Dense, keras.layers.BatchNormalization
    encoder = keras.Sequential([keras.Input((6,)), dense(5), norm(), dense(2), norm()])
    decoder = keras.Sequential([keras.Input((2,)), norm(), dense(5), norm(), dense(6)])
    return kgen.Autoencoder(encoder, decoder, ema_decay=0.9, seed=0), (6,)


def recurrent():
    encoder = keras.Sequential([keras.Input((5, 2)), keras.layers.LSTM(3)])
    decoder = [keras.layers.RepeatVector(5), keras.layers.LSTM(2, return_sequences=True)]
    decoder = keras.Sequential([keras.Input((3,)), *decoder])
    return kgen.Autoencoder(encoder, decoder, ema_decay=0.9, seed=0), (5, 2)


def mixed_names():
    """All layers of one shape: a permutation would load without an error."""
    dense = keras.layers.Dense
    encoder = [dense(4), dense(4, name="dense_7"), dense(4), dense(4, name="first"), dense(4)]
    decoder = [dense(4, name="z"), dense(4), dense(4, name="dense_2"), dense(4)]
    encoder, decoder = (keras.Sequential([keras.Input((4,)), *v]) for v in (encoder, decoder))
    return kgen.Autoencoder(encoder, decoder, ema_decay=0.9, seed=0), (4,)


@serializable
class UnnamedWidths(keras.layers.Layer):
    """Its own layers, without names, in a list."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.steps = [keras.layers.Dense(width) for _ in range(12)]

    def build(self, input_shape):
        for step in self.steps:
            step.build(input_shape)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.width)

    def call(self, x):
        for step in self.steps:
            x = x + 0.1 * step(x)
        return x


def own_layers():
    encoder, decoder = (keras.Sequential([keras.Input((4,)), UnnamedWidths(4)]) for _ in range(2))
    return kgen.Autoencoder(encoder, decoder, ema_decay=0.9, seed=0), (4,)


MODELS = [two_sequentials, batch_normalisation, recurrent, mixed_names, own_layers]


def randomise(variables, seed):
    rng = np.random.default_rng(seed)
    for variable in variables:
        variable.assign(rng.uniform(0.05, 0.5, variable.shape))


def new_names(num):
    """Keras counts the layers of a process, and names them after the count."""
    for _ in range(num):
        keras.layers.Dense(1), keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()
        keras.layers.LSTM(1), keras.Sequential()


def by_place(model):
    """The averages by the places of their weights, which no name decides."""
    place = places(model)
    return {place[id(v)]: average.numpy() for v, average in model.averages.pairs()}


def assert_the_same(again, model, shape):
    expected, found = by_place(model), by_place(again)
    assert set(found) == set(expected)
    for place, value in expected.items():
        np.testing.assert_array_equal(found[place], value, err_msg=str(place))
    for one, other in zip(again.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    x = np.random.default_rng(1).uniform(size=(3, *shape)).astype("float32")
    outputs = []
    for one in (again, model):
        with one.averaged():
            outputs.append(one.encoder(x).numpy())
    np.testing.assert_array_equal(*outputs)
    assert np.abs(outputs[0] - model.encoder(x)).max() > 1e-4


@pytest.mark.parametrize("num_others", [0, 5, 97])
@pytest.mark.parametrize("make", MODELS)
def test_a_keras_file_holds_each_average_at_its_place(make, num_others, tmp_path):
    new_names(num_others)
    model, shape = make()
    randomise(model.trainable_variables, 0)
    randomise(model.averages.values, 1)
    model.save(tmp_path / "model.keras")
    new_names(num_others + 4)
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert_the_same(again, model, shape)


@pytest.mark.parametrize("make", MODELS)
def test_weights_alone_load_into_a_model_made_anew(make, tmp_path):
    model, shape = make()
    randomise(model.trainable_variables, 0)
    randomise(model.averages.values, 1)
    model.save_weights(tmp_path / "model.weights.h5")
    new_names(7)
    again, _ = make()
    again.load_weights(tmp_path / "model.weights.h5")
    assert_the_same(again, model, shape)


@pytest.mark.parametrize("make", MODELS)
def test_a_preset_holds_each_average_at_its_place(make, tmp_path):
    model, shape = make()
    randomise(model.trainable_variables, 0)
    randomise(model.averages.values, 1)
    model.save_to_preset(tmp_path / "preset", dtype="float32")
    new_names(7)
    again = kgen.from_preset(tmp_path / "preset")
    expected, found = by_place(model), by_place(again)
    assert set(found) == set(expected)
    for place, value in expected.items():
        np.testing.assert_array_equal(found[place], value)
    x = np.random.default_rng(1).uniform(size=(3, *shape)).astype("float32")
    with model.averaged():
        np.testing.assert_allclose(again.encoder(x), model.encoder(x), rtol=1e-6)


def test_each_average_is_that_of_its_own_weight():
    """Paired with itself after one update by 1 - d, from a start that tells weights apart."""
    model, _ = mixed_names()
    for i, weight in enumerate(model.trainable_variables):
        weight.assign(tf.fill(weight.shape, float(i)))
    model.averages.reset()
    for i, weight in enumerate(model.trainable_variables):
        weight.assign(tf.fill(weight.shape, 10.0 * i))
    model.averages.update()
    numbers = {id(v): i for i, v in enumerate(model.trainable_variables)}
    pairs = model.averages.pairs()
    assert sorted(numbers[id(v)] for v, _ in pairs) == list(range(len(numbers)))
    for weight, average in pairs:
        i = numbers[id(weight)]
        # d = min(0.9, (1 + 0) / (10 + 0)) = 0.1 in the first update
        np.testing.assert_allclose(average, np.full(average.shape, 0.1 * i + 0.9 * 10 * i))


def test_no_decay_is_no_averages():
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    averages = WeightAverages(dense, None)
    averages.update()
    averages.reset()
    assert (averages.pairs(), averages.values, averages.weights) == ([], [], [])
    with averages.scope():
        dense.kernel.assign(np.ones((3, 2)))
    np.testing.assert_array_equal(dense.kernel, np.ones((3, 2)))


def test_half_precision_weights_have_averages_of_full_precision():
    """A step of 1 - d = 0.001 of a bfloat16 number near 1 would be none."""
    dense = keras.layers.Dense(1, dtype="bfloat16", use_bias=False)
    dense.build((None, 1))
    dense.kernel.assign([[1.0]])
    averages = WeightAverages(dense, 0.999)
    averages.updates.assign(10**6)
    dense.kernel.assign([[2.0]])
    for _ in range(3):
        averages.update()
    ((_, average),) = averages.pairs()
    assert average.dtype == "float32"
    assert float(average[0, 0]) == pytest.approx(2 - 0.999**3, rel=1e-6)


def test_some_weights_alone():
    dense = keras.layers.Dense(2)
    dense.build((None, 3))
    averages = WeightAverages(dense, 0.9, [dense.bias])
    assert [weight.path for weight, _ in averages.pairs()] == [dense.bias.path]


def frozen_by_hand():
    network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(4)])
    model = kgen.VAE(network, mlp((2,), (8,), hidden=(4,)), ema_decay=0.9, seed=0)
    model.compile("sgd")
    model.fit(np.random.default_rng(0).uniform(size=(16, 8)).astype("float32"), verbose=0)
    network.layers[0].trainable = False
    return model


def test_a_model_of_which_a_part_is_frozen_by_hand_is_saved(tmp_path):
    model = frozen_by_hand()
    x = np.random.default_rng(1).uniform(size=(4, 8)).astype("float32")
    expected = model.reconstruct(x).numpy()
    raw = model._decode(model._encode(x, None), None).numpy()
    assert np.abs(expected - raw).max() > 1e-6
    model.save(tmp_path / "model.keras")
    again = kgen.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.reconstruct(x), expected, rtol=1e-5)
    np.testing.assert_allclose(again._decode(again._encode(x, None), None), raw, rtol=1e-5)
    again.fit(x, verbose=0)  # and can be trained on
    model.save_weights(tmp_path / "model.weights.h5")
    other = frozen_by_hand()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(other.reconstruct(x), expected, rtol=1e-5)
    model.save_to_preset(tmp_path / "preset", dtype="float32")
    np.testing.assert_allclose(
        kgen.from_preset(tmp_path / "preset").reconstruct(x), expected, rtol=1e-5
    )


@pytest.mark.parametrize("save", ["save", "save_to_preset"])
def test_what_could_not_be_read_is_not_written(save, tmp_path):
    model = frozen_by_hand()
    model.encoder.layers[1].quantize("int8")
    with pytest.raises(ValueError, match="quantised layers cannot be saved.*: dense"):
        getattr(model, save)(tmp_path / "model.keras")


def test_averages_beside_an_adapted_layer(tmp_path):
    model = frozen_by_hand()
    model.encoder.layers[1].enable_lora(2)
    x = np.random.default_rng(1).uniform(size=(4, 8)).astype("float32")
    model.save_to_preset(tmp_path / "preset", dtype="float32")
    again = kgen.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(again.reconstruct(x), model.reconstruct(x), rtol=1e-5)
    with pytest.raises(ValueError, match="beside layers with `enable_lora`"):
        model.save(tmp_path / "model.keras")
