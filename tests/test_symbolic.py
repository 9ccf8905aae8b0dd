"""Networks of any kind: the same function written in every way is called in every way."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen import symbolic
from kgen.symbolic import call, describe, input_shape, output_spec, takes_condition

X, P = np.float32([[1.0, 2.0, 3.0]]), np.float32([[10.0, 20.0]])
BOTH = {"x": X, "cond": {"pooled": P}}
SPECS = {"x": symbolic.symbolic((3,)), "cond": {"pooled": symbolic.symbolic((2,))}}
EXPECTED = np.float32([[1.0, 2.0, 3.0, 10.0, 20.0]])


def functional(names=(None, None), form=list):
    x, p = keras.Input((3,), name=names[0]), keras.Input((2,), name=names[1])
    inputs = {list: [x, p], tuple: (x, p), dict: {"x": x, "pooled": p}}[form]
    return keras.Model(inputs, keras.layers.Concatenate()([x, p]))


def swapped():
    """The inputs in another order than the tensors: their names say which is which."""
    x, p = keras.Input((3,), name="x"), keras.Input((2,), name="pooled")
    return keras.Model([p, x], keras.layers.Concatenate()([x, p]))


class Layer(keras.Layer):
    def call(self, x, cond, training=False):
        return keras.ops.concatenate([x, cond["pooled"]], -1)


class Model(keras.Model):
    """Layers that are made in the constructor and built by the first call."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, kernel_initializer="identity")

    def call(self, x, cond=None):
        return keras.ops.concatenate([self.dense(x), cond["pooled"]], -1)


WAYS = {
    "list": functional,
    "tuple": lambda: functional(form=tuple),
    "dictionary": lambda: functional(("x", "pooled"), dict),
    "named": lambda: functional(("pictures", "pooled")),
    "swapped": swapped,
    "layer": Layer,
    "model": Model,
    "function": lambda: lambda x, cond: tf.concat([x, cond["pooled"]], -1),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_a_network_of_two_inputs(way):
    network = WAYS[way]()
    assert takes_condition(network)
    assert output_spec(network, SPECS).shape == (None, 5)
    np.testing.assert_array_equal(call(network, BOTH), EXPECTED)


def test_an_unbuilt_network_is_built_by_the_symbolic_call():
    network = Model()
    output_spec(network, SPECS)
    assert [v.shape for v in network.trainable_variables] == [(3, 3), (3,)]
    assert input_shape(keras.layers.Dense(2)) is None


class Open(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("make", [Open, lambda: keras.Sequential([keras.layers.Dense(3)])])
def test_a_built_network_knows_its_input(make):
    network = make()
    assert input_shape(network) is None
    network(np.zeros((2, 7), "float32"))
    assert input_shape(network) == (7,)


@pytest.mark.parametrize(
    "network",
    [
        keras.Sequential([keras.layers.Dense(4)]),
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)]),
        keras.layers.Dense(4),
        lambda x, training: tf.pad(x, [[0, 0], [0, 1]]),
    ],
)
def test_networks_without_a_place_for_a_condition_go_without(network):
    assert not takes_condition(network)
    assert output_spec(network, SPECS).shape == (None, 4)
    assert call(network, BOTH).shape == (1, 4)


def test_a_condition_that_is_none_goes_only_where_it_is_asked_for():
    got = []
    call(lambda z, log_snr, cond, training: got.append(cond), {"z": X, "log_snr": X, "cond": None})
    call(lambda z, log_snr, scale=2.0: got.append(scale), {"z": X, "log_snr": X, "cond": None})
    assert got == [None, 2.0]


def test_training_reaches_every_kind():
    dropout = keras.layers.Dropout(0.999)
    x = keras.Input((3,))
    sequential, model = keras.Sequential([dropout]), keras.Model(x, dropout(x))
    for network in (dropout, sequential, model, lambda x, training=False: x * (1 - training)):
        np.testing.assert_array_equal(call(network, {"x": X}), X)
        np.testing.assert_array_equal(call(network, {"x": X}, training=True), 0 * X)


def test_several_outputs_keep_their_structure():
    x = keras.Input((3,))
    heads = keras.Model(x, {"mean": keras.layers.Dense(2)(x), "deep": [x, x]})
    spec = output_spec(heads, {"x": SPECS["x"]})
    assert spec["mean"].shape == (None, 2)
    assert [item.shape for item in spec["deep"]] == [(None, 3), (None, 3)]


def test_named_tensors_of_a_denoiser():
    """By name whatever the order, the condition's tensors behind the main ones."""
    z, log_snr, mask, pooled = (keras.Input((), name=n) for n in ("z", "log_snr", "mask", "pooled"))
    given = {"z": tf.constant([1.0]), "log_snr": tf.constant([20.0])}
    cond = {"mask": tf.constant([300.0]), "pooled": tf.constant([4000.0])}
    network = keras.Model({"log_snr": log_snr, "z": z, "pooled": pooled}, z - log_snr + pooled)
    assert float(call(network, {**given, "cond": cond})[0]) == 3981.0
    unnamed = [keras.Input(()) for _ in range(4)]
    network = keras.Model(unnamed, unnamed[0] - unnamed[1] + 2 * unnamed[2] + unnamed[3])
    assert float(call(network, {**given, "cond": cond})[0]) == -19 + 8000 + 300
    del mask


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        ("encoder", TypeError, "`encoder` must be a Keras model, a layer or a function"),
        (keras.layers.Dense, TypeError, "`encoder` must be a Keras model, a layer or a function"),
        (functional(), ValueError, r"`encoder` must take x \[B, 3\]. .* more than there are"),
        (
            keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()]),
            ValueError,
            r"`encoder` must take x \[B, 3\]. Received: a Sequential that raises ValueError: ",
        ),
        (
            lambda x: x[0, 0, 0],
            ValueError,
            r"`encoder` must take x \[B, 3\]. Received: a function that raises",
        ),
    ],
)
def test_what_is_no_network_or_takes_something_else(network, error, message):
    with pytest.raises(error, match=message):
        output_spec(network, {"x": SPECS["x"]}, "encoder")


def test_description_of_nested_tensors():
    assert describe({"z": [SPECS["x"], SPECS["x"]], "cond": None}) == "z ([B, 3], [B, 3])"
