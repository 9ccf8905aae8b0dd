"""Damaged files: presets and `.keras` files that are cut off, changed or say something else."""

import json
import re

import numpy as np
import pytest

import kgen
from kgen.networks import mlp

NAN = float("nan")
SHAPE = (4, 4, 1)
PARTS = [0, 1, 7, 12, 19]  # of twenty


def vae():
    return kgen.VAE(mlp(SHAPE, (4,)), mlp((2,), SHAPE), "bernoulli")


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A preset as it should be: the text of its configuration and the bytes of its weights."""
    directory = tmp_path_factory.mktemp("preset")
    vae().save_to_preset(directory)
    return (directory / "config.json").read_text(), (directory / "weights.npz").read_bytes()


def refused(directory, text, weights, name):
    """Checks that a preset is refused by an error that names one of its files."""
    (directory / "config.json").write_text(text)
    (directory / "weights.npz").write_bytes(weights)
    with pytest.raises(ValueError, match=re.escape(str(directory / name))):
        kgen.from_preset(directory)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["config.json", "weights.npz"])
def test_a_truncated_preset(preset, tmp_path, name, part):
    text, weights = preset
    if name == "config.json":
        text = text[: len(text) * part // 20]
    else:
        weights = weights[: len(weights) * part // 20]
    refused(tmp_path, text, weights, name)


@pytest.mark.parametrize("place", PARTS)
@pytest.mark.parametrize("stamped", [True, False])
def test_weights_with_a_wrong_byte(preset, tmp_path, place, stamped):
    """Without a sha256 it may be in a place that nobody reads; then the weights are finite."""
    text, weights = preset
    at = len(weights) * place // 20
    weights = weights[:at] + bytes([weights[at] ^ 0xFF]) + weights[at + 1 :]
    if stamped:
        refused(tmp_path, text, weights, "weights.npz")
        return
    content = json.loads(text)
    del content["sha256"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "weights.npz").write_bytes(weights)
    read, message = [], str(tmp_path / "weights.npz")
    try:
        read = kgen.from_preset(tmp_path).get_weights()
    except ValueError as error:
        message = str(error)
    assert str(tmp_path / "weights.npz") in message
    assert all(np.isfinite(w).all() for w in read)


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    vae().save(path)
    assert isinstance(kgen.load_model(path), kgen.VAE)
    return path.read_bytes()


@pytest.mark.parametrize("part", PARTS)
def test_a_truncated_keras_file(keras_file, tmp_path, part):
    path = tmp_path / "model.keras"
    path.write_bytes(keras_file[: len(keras_file) * part // 20])
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
        kgen.load_model(path)


@pytest.mark.parametrize("place", PARTS)
def test_a_keras_file_with_a_wrong_byte(keras_file, tmp_path, place):
    path, at = tmp_path / "model.keras", len(keras_file) * place // 20
    path.write_bytes(keras_file[:at] + bytes([keras_file[at] ^ 0xFF]) + keras_file[at + 1 :])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        kgen.load_model(path)


OPTIONS = {
    "likelihood": "unknown",
    "objective": ["elbo"],
    "gradient": 3,
    "beta": NAN,
    "warm_up": -1,
    "capacity": "1",
    "num_samples": 2.5,
    "ema_decay": 1.0,
    "seed": {"a": 1},
    "encoder": "mlp",
    "decoder": None,
    "unknown": 3,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_config_with_a_bad_option(preset, tmp_path, option):
    content = json.loads(preset[0])
    content["model"]["config"][option] = OPTIONS[option]
    refused(tmp_path, json.dumps(content), preset[1], "config.json")


def nodes(config):
    """All that a configuration says how to build, in order."""
    if isinstance(config, dict):
        if "class_name" in config and config["class_name"] != "__keras_tensor__":
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from nodes(item)


@pytest.mark.parametrize("index", range(0, 24, 4))
@pytest.mark.parametrize("change", ["class_name", "module", "config"])
def test_a_config_with_a_bad_class(preset, tmp_path, index, change):
    content = json.loads(preset[0])
    every = list(nodes(content["model"]))
    assert len(every) >= 24
    every[index]["registered_name"] = None
    every[index][change] = {"class_name": "Unknown", "module": "os", "config": 3}[change]
    refused(tmp_path, json.dumps(content), preset[1], "config.json")
