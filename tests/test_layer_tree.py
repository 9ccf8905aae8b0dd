"""The places of weights: equal after a model is rebuilt, whatever its layers are called."""

import keras
import numpy as np
import pytest

from kgen.layer_tree import freeze, layers_of, places, walk
from kgen.networks import UNet
from kgen.networks.attention import Attention
from kgen.serialization import serializable


@serializable
class Stack(keras.layers.Layer):
    """A list of layers without names, a dictionary of them, and one behind an underscore."""

    def __init__(self, widths=(4, 5, 3), **kwargs):
        super().__init__(**kwargs)
        self.widths = tuple(widths)
        self.steps = [keras.layers.Dense(width) for width in self.widths]
        self.heads = {key: keras.layers.Dense(2) for key in ("mean", "log_std")}
        self._norm = keras.layers.LayerNormalization()
        self.scale = self.add_weight(shape=(1,), initializer="ones", name="scale")

    def build(self, input_shape):
        for step in self.steps:
            step.build(input_shape)
            input_shape = (*input_shape[:-1], step.units)
        self._norm.build(input_shape)
        for head in self.heads.values():
            head.build(input_shape)

    def call(self, x):
        for step in self.steps:
            x = step(x)
        x = self._norm(x) * self.scale
        return sum(head(x) for head in self.heads.values())


def sequential():
    dense = keras.layers.Dense
    layers = [dense(4), dense(5, name="middle"), keras.layers.BatchNormalization(), dense(3)]
    return keras.Sequential([keras.Input((3,)), *layers])


def functional():
    x = keras.Input((3,))
    h = keras.layers.Dense(4)(x)
    h = keras.layers.Dense(4, name="a_named_one")(h) + keras.layers.Dense(4)(x)
    return keras.Model(x, keras.layers.Dense(2)(h))


def nested():
    return keras.Sequential([keras.Input((3,)), functional(), sequential_of(2), Stack()])


def sequential_of(width):
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(width)])


def stack():
    layer = Stack()
    layer.build((None, 3))
    return layer


def recurrent():
    layers = [keras.layers.LSTM(4, return_sequences=True), keras.layers.GRU(3)]
    return keras.Sequential([keras.Input((5, 2)), *layers])


def attention():
    x = keras.Input((4, 6))
    return keras.Model(x, keras.layers.MultiHeadAttention(2, 3)(x, x))


MODELS = [sequential, functional, nested, stack, recurrent, attention]


def rebuilt(model):
    """From its configuration, after the counters behind Keras' names have moved on."""
    for _ in range(11):
        keras.layers.Dense(1), keras.layers.LSTM(1), keras.Sequential()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    if not again.built:
        again.build((None, 3))
    return again


@pytest.mark.parametrize("make", MODELS)
def test_places_are_those_of_the_rebuilt_model(make):
    """Weights that are carried over by their places leave the output as it was."""
    model = make()
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(rng.uniform(0.1, 1.0, weight.shape))
    again = rebuilt(model)
    one, other = places(model), places(again)
    assert set(one) >= {id(v) for v in model.variables}
    assert len(set(one.values())) == len(one)
    assert set(one.values()) == set(other.values())
    values = {one[id(v)]: v.numpy() for v in model.variables}
    for variable in again.variables:
        assert variable.shape == values[other[id(variable)]].shape
        variable.assign(values[other[id(variable)]])
    x = rng.normal(size=(2, *(getattr(model, "input_shape", None) or (None, 3))[1:]))
    np.testing.assert_array_equal(again(x.astype("float32")), model(x.astype("float32")))


def test_places_say_how_to_get_there():
    model = nested()
    found = {place: type(layer).__name__ for place, layer in walk(model)}
    assert found[()] == "Sequential"
    assert found[(2, "steps", 1)] == "Dense"
    assert found[(2, "heads", "log_std")] == "Dense"
    names = [layer.name for layer in model.layers[0].layers]
    assert found[(0, names.index("a_named_one"))] == "Dense"
    scale = model.layers[2].scale
    assert places(model)[id(scale)][0] == "2"


def test_a_shared_layer_has_one_place():
    shared = keras.layers.Dense(3)
    model = keras.Sequential([keras.Input((3,)), shared, keras.layers.ReLU(), shared])
    assert [layer for layer in layers_of(model) if layer is shared] == [shared]
    assert len(places(model)) == len(model.variables) == 2


def test_all_inside_of_a_frozen_layer_is_frozen():
    model = nested()
    model.trainable = False
    model.layers[2].steps[1].trainable = True
    freeze(model)
    assert not model.trainable_variables
    assert not any(layer.trainable for layer in layers_of(model))
    assert not stack_of(model).trainable_variables


def stack_of(model):
    return model.layers[2]


def test_places_in_a_unet_are_those_of_saved_loras():
    """A LoRA, in a preset or a file, finds its layers by their places: they must stay."""
    options = {"blocks": 1, "attention": (False, True), "heads": 2, "tokens": (3, 4)}
    network = UNet((4, 4, 2), channels=(8, 16), **options)
    found = [place for place, layer in walk(network) if isinstance(layer, Attention)]
    # LoRAs have been saved with these.
    assert found == [("graph", n) for n in (23, 27, 42, 44, 65, 67, 83, 85)]
