"""LoRA of layers, against the matrix product it stands for."""

import keras
import numpy as np
import pytest

from kgen.training import lora

X = np.random.default_rng(0).normal(size=(2, 5, 6)).astype("float32")


def attention():
    keras.utils.set_random_seed(0)
    layer = keras.layers.MultiHeadAttention(2, 3)
    layer.build((None, 5, 6), (None, 5, 6))
    return layer


@pytest.mark.parametrize("name", ["query_dense", "output_dense"])
def test_of_a_multi_head_attention_is_of_the_kernel_as_a_matrix(name):
    layer = getattr(attention(), name)
    x = X if name == "query_dense" else X.reshape(2, 5, 2, 3)
    matrix, before = np.array(layer.kernel).reshape(6, 6), layer(x).numpy()
    lora.enable(layer, 2, 3.0)
    np.testing.assert_array_equal(layer(x), before)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(6, 2)), rng.normal(size=(2, 6))
    layer.lora_kernel_a.assign(a)
    layer.lora_kernel_b.assign(b)
    expected = X.reshape(10, 6) @ (matrix + 3.0 / 2 * a @ b)  # its bias is zero
    np.testing.assert_allclose(np.reshape(layer(x), (10, 6)), expected, rtol=1e-4, atol=1e-5)
    lora.disable(layer, merge=True)
    np.testing.assert_allclose(np.reshape(layer(x), (10, 6)), expected, rtol=1e-4, atol=1e-5)
    assert len(layer.weights) == 2


def test_chosen_layers():
    x = keras.Input((5, 6))
    h = keras.layers.Dense(6, name="in")(x)
    network = keras.Model(x, attention()(h, h))

    def found(targets):
        return sorted(layer.name for layer in lora.chosen({"unet": network}, targets).values())

    assert found("attention") == ["attention_output", "key", "query", "value"]
    assert found("dense") == sorted(["in", *found("attention")])
    assert found(["in"]) == ["in"]
    with pytest.raises(ValueError, match="`targets` must name layers of 'unet', which has"):
        lora.chosen({"unet": network}, ["to_q"])
    with pytest.raises(ValueError, match="`targets` must be one of"):
        lora.chosen({"unet": network}, "convolutions")


def test_names_are_those_of_layers_and_attributes():
    inner = keras.layers.Dense(2, name="inner")
    outer = keras.Sequential([keras.Input((3,)), inner])
    outer.extra = keras.layers.Dense(2, name="another")
    found = lora.names(outer)
    assert found[id(inner)] == "inner"


def test_frozen_weights_are_released():
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(2)])
    network.layers[1].bias.trainable = False
    before = [v.trainable for v in network.variables]
    frozen = lora.FrozenWeights([network], [network.layers[0].kernel])
    assert [v.trainable for v in network.variables] == [True, False, False, False]
    assert len(network.trainable_variables) == 1
    frozen.release()
    assert [v.trainable for v in network.variables] == before
