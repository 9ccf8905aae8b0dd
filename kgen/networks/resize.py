"""Adapting a network to data of another size, with the same layers and weights.

`UNet` and `DiT` accept any size. The input of a functional model has a fixed size, which other
models read; for another size its layers are connected again to another input. The layers of
`encoder` and `decoder` infer their sizes from their inputs.
"""

from typing import Any

import keras
from keras import layers

from kgen.networks.conditional import ConditionalNetwork
from kgen.networks.shapes import CropTo
from kgen.types import Shape


def resized(network: keras.Model, size: Shape) -> keras.Model:
    """Returns a network for data of another size that shares its layers and weights.

    A network that accepts any size (`UNet`, `DiT`) is returned unchanged. The layers of a
    functional model with one input, such as `encoder` and `decoder` return, are connected again; if
    the model crops its output to a fixed size, the new one does not.

    Args:
        network: the network.
        size: size `(H, W)` of its input; None for a size that varies.

    Returns:
        A `keras.Model` that shares its weights with `network`: training either changes both.

    Raises:
        TypeError: if `network` is another kind of network.
        ValueError: if `size` does not have one entry per spatial axis.

    Example:
        >>> from kgen.networks import decoder
        >>> small = decoder((8, 8, 4), channels=(8, 16))
        >>> resized(small, (12, 10)).output_shape
        (None, 24, 20, 3)
    """
    if isinstance(network, ConditionalNetwork) and network.takes_any_size:
        return network
    if not hasattr(network, "operations") or len(network.inputs) != 1:
        raise TypeError(
            "`network` must take any size or be a functional model of one input. "
            f"Received: {type(network).__name__}."
        )
    old = tuple(network.inputs[0].shape[1:-1])
    size = tuple(size)
    if len(size) != len(old):
        raise ValueError(
            f"`size` must have an entry for each of the {len(old)} spatial axes. "
            f"Received: size={size}."
        )
    if size == old:
        return network
    x = keras.Input((*size, network.inputs[0].shape[-1]), name=network.inputs[0].name)

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        if type(layer) is CropTo:
            return args[0]
        if type(layer) is layers.Reshape:
            layer = layers.Reshape(_rescaled(layer, old, size), dtype=layer.dtype_policy)
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        network,
        input_tensors=x if not isinstance(network.input, list) else [x],
        clone_function=lambda layer: layer,
        call_function=call,
    )


def _rescaled(layer: keras.Layer, old: Shape, size: Shape) -> tuple[int, ...]:
    """Returns the target shape of a `Reshape` of pixels for another size of the network's input.

    Autoencoders in presets of kgen 0.1 have such layers, with two spatial axes: to a sequence (h w,
    C), to pixels (h, w, C), to rows and columns of squares (h, p, w, p, C) or (h, w, p, p, C).
    """
    target = list(layer.target_shape)
    if len(target) == 2:
        return (-1, target[1])
    squares_by_row = len(target) == 5 and target[0] != layer.input.shape[1]
    for axis, now, before in zip((0, 2 if squares_by_row else 1), size, old):
        if not now or not before or target[axis] * now % before:
            raise ValueError(
                "`size` must be known and in proportion to the size of every layer. Received: "
                f"size={tuple(size)} for a network of size {tuple(old)}, whose layer "
                f"{layer.name!r} reshapes to {tuple(target)}."
            )
        target[axis] = target[axis] * now // before
    return tuple(target)
