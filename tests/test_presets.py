"""Damaged and missing presets are named."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.layer_tree import layers_of
from kgen.networks import TimeMLP, UNet, mlp
from kgen.networks.blocks import dtype_policy
from kgen.networks.conv import decoder, encoder


@pytest.fixture
def preset(tmp_path):
    model = kgen.KLAutoencoder(
        encoder((8, 8, 3), 4, channels=(8, 8)), decoder((4, 4, 4), channels=(8, 8))
    )
    model.save_to_preset(tmp_path)
    return tmp_path


def test_weights_are_half_precision_and_load_as_float32(preset):
    with np.load(preset / "weights.npz") as archive:
        assert {archive[key].dtype for key in archive.files} == {np.dtype("float16")}
    assert {w.dtype for w in kgen.from_preset(preset).trainable_weights} == {"float32"}


def test_a_mixed_policy_of_training_is_not_forced_on_the_user(tmp_path):
    with dtype_policy("mixed_bfloat16"):
        model = kgen.KLAutoencoder(
            encoder((8, 8, 3), 4, channels=(8, 8)), decoder((4, 4, 4), channels=(8, 8))
        )
    model.save_to_preset(tmp_path)

    assert set(policies(kgen.from_preset(tmp_path)).values()) == {"float32"}
    again = kgen.from_preset(tmp_path, dtype="mixed_bfloat16")
    assert "mixed_bfloat16" in policies(again).values()


def policies(part):
    return {layer.name: layer.dtype_policy.name for layer in layers_of(part)}


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16"])
def test_a_model_trained_in_float32_computes_in_half_precision(tmp_path, dtype):
    model = kgen.KLAutoencoder(
        encoder((8, 8, 3), 4, channels=(8, 8)), decoder((4, 4, 4), channels=(8, 8))
    )
    model.save_to_preset(tmp_path)
    half = kgen.from_preset(tmp_path, dtype=dtype)
    with dtype_policy(dtype):
        trained_so = encoder((8, 8, 3), 4, channels=(8, 8)), decoder((4, 4, 4), channels=(8, 8))
    for part, like in zip((half.encoder, half.decoder), trained_so):
        found, expected = policies(part), policies(like)
        names = [n for n in expected if n.startswith(("conv", "down", "up", "mid"))]
        assert [found[n] for n in names] == [expected[n] for n in names]
        assert {dtype, "float32"} <= set(found.values())
    x = np.random.default_rng(0).uniform(-1, 1, [2, 8, 8, 3]).astype("float32")
    there, back = kgen.from_preset(tmp_path).reconstruct(x), half.reconstruct(x)
    assert back.dtype == tf.float32
    assert 0 < np.abs(there - back).max() < 0.05 * np.abs(there).max()


def test_other_networks_compute_in_half_precision(tmp_path):
    """A network of own layers has no outputs that are known to be delicate; a U-Net knows its."""
    chain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(4)])
    back = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8), keras.layers.Reshape((8,))])
    kgen.VAE(chain, back, "gaussian").save_to_preset(tmp_path / "vae")
    model = kgen.from_preset(tmp_path / "vae", dtype="mixed_bfloat16")
    kinds = [layer.dtype_policy.name for layer in model.encoder.layers]
    assert kinds == ["mixed_bfloat16", "float32"]  # the last one makes the output
    assert [layer.dtype_policy.name for layer in model.decoder.layers] == ["float32"] * 2
    network = UNet((8, 8, 1), channels=(8, 8), attention=False)
    kgen.DiffusionModel(network, GaussianDiffusion(CosineLogSNR())).save_to_preset(tmp_path / "d")
    model = kgen.from_preset(tmp_path / "d", dtype="bfloat16")
    found = policies(model.network.graph)
    assert found["mid_0_res_conv1"] == "bfloat16"
    assert found["conv_out"] == found["conv_in"] == "float32"


def test_layers_that_a_half_precision_network_has_in_float32_stay(tmp_path):
    with dtype_policy("mixed_float16"):
        layers = [keras.layers.Dense(8, dtype="float32"), keras.layers.Dense(4)]
        chain = keras.Sequential([keras.Input((4,)), *layers])
    back = keras.Sequential([keras.Input((2,)), keras.layers.Dense(8)])
    kgen.VAE(chain, back, "gaussian").save_to_preset(tmp_path)
    kinds = [v.dtype_policy.name for v in kgen.from_preset(tmp_path, "bfloat16").encoder.layers]
    assert kinds == ["float32", "bfloat16"]


def test_a_half_precision_model_is_saved(tmp_path):
    """bfloat16 is no type of numpy's own; its values are exact in float32."""
    with dtype_policy("bfloat16"):
        model = kgen.DiffusionModel(TimeMLP(2, width=8), GaussianDiffusion(CosineLogSNR()))
    model.save_to_preset(tmp_path, dtype="float32")
    again = kgen.from_preset(tmp_path)
    assert len(again.trainable_weights) == len(model.trainable_weights) > 4
    for new, old in zip(again.trainable_weights, model.trainable_weights):
        np.testing.assert_array_equal(tf.cast(new, tf.float32), tf.cast(old, tf.float32))


def test_a_model_that_cannot_be_saved_leaves_the_old_preset(preset, monkeypatch):
    before = [w.numpy() for w in kgen.from_preset(preset).trainable_weights]

    def broken(model):
        raise ValueError("no configuration")

    with monkeypatch.context() as patch:
        patch.setattr("keras.saving.serialize_keras_object", broken)
        with pytest.raises(ValueError, match="no configuration"):
            kgen.DiffusionModel(
                TimeMLP(2, width=8), GaussianDiffusion(CosineLogSNR())
            ).save_to_preset(preset)
    for old, new in zip(before, kgen.from_preset(preset).trainable_weights):
        np.testing.assert_array_equal(old, new)
    kgen.from_preset(preset).save_to_preset(preset)
    assert sorted(path.name for path in preset.iterdir()) == ["config.json", "weights.npz"]


def test_averages_of_a_model_inside_another_are_the_weights_too(tmp_path):
    process = GaussianDiffusion(CosineLogSNR())
    density = kgen.DiffusionModel(TimeMLP(2, width=8, blocks=1), process, ema_decay=0.9)
    for variable in density.trainable_variables:
        variable.assign(variable + 1.0)  # the averages stay behind
    averages = [average.numpy() for _, average in density.averages.pairs()]
    kgen.VariationalDequantization(mlp((2,), (4,)), density).save_to_preset(tmp_path, "float32")
    loaded = kgen.from_preset(tmp_path).density
    for (weight, average), expected in zip(loaded.averages.pairs(), averages, strict=True):
        np.testing.assert_array_equal(weight, expected)
        np.testing.assert_array_equal(average, expected)


def test_a_keras_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`path` must be a `\.keras` file.*none\.keras"):
        kgen.load_model(tmp_path / "none.keras")


@pytest.mark.parametrize("name", ["config.json", "weights.npz"])
def test_a_missing_file_is_named(preset, name):
    (preset / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        kgen.from_preset(preset)


def test_truncated_weights(preset):
    data = (preset / "weights.npz").read_bytes()
    (preset / "weights.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"weights\.npz is damaged"):
        kgen.from_preset(preset)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"versions": {}}'])
def test_a_damaged_config(preset, text):
    (preset / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not"):
        kgen.from_preset(preset)


def fewer_weights(preset):
    with np.load(preset / "weights.npz") as archive:
        arrays = {key: archive[key] for key in sorted(archive.files)[:-1]}
    np.savez(preset / "weights.npz", **arrays)


def without_sha256(preset):
    config = json.loads((preset / "config.json").read_text())
    del config["sha256"]
    (preset / "config.json").write_text(json.dumps(config))


def test_weights_that_were_exchanged(preset):
    fewer_weights(preset)
    with pytest.raises(ValueError, match=r"weights\.npz is damaged: its sha256"):
        kgen.from_preset(preset)


def test_weights_are_found_by_their_names(tmp_path):
    """Another version of Keras or of a network may list the same weights in another order."""
    model = kgen.DiffusionModel(TimeMLP(2, width=8), GaussianDiffusion(CosineLogSNR()))
    model.save_to_preset(tmp_path, "float32")
    with np.load(tmp_path / "weights.npz") as archive:
        named = [(name.partition(":")[2], archive[name]) for name in sorted(archive.files)]
    arrays = {f"{i:04d}:{name}": array for i, (name, array) in enumerate(reversed(named))}
    np.savez(tmp_path / "weights.npz", **arrays)
    without_sha256(tmp_path)
    loaded = kgen.from_preset(tmp_path)
    for variable, other in zip(model.network.weights, loaded.network.weights, strict=True):
        np.testing.assert_array_equal(variable, other)


def test_weights_of_another_model(preset):
    """As in a preset of an earlier version, which has no sha256."""
    fewer_weights(preset)
    without_sha256(preset)
    with pytest.raises(ValueError, match="does not fit its configuration"):
        kgen.from_preset(preset)


def test_code_in_a_config_is_refused(preset):
    config = json.loads((preset / "config.json").read_text())
    config["model"]["config"]["encoder"] = {
        "class_name": "__lambda__",
        "config": {"value": "e30=", "defaults": None, "closure": None},
    }
    (preset / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="unsafe|lambda"):
        kgen.from_preset(preset)


def test_an_unknown_dtype(preset):
    with pytest.raises(ValueError, match="`dtype` must be"):
        kgen.from_preset(preset).save_to_preset(preset, dtype="int8")
