"""Validation of the networks and the examples of models with a denoiser."""

from typing import Any

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_data
from kgen.conditioning import Conditioner
from kgen.symbolic import describe, output_spec, symbolic, takes_condition
from kgen.types import Network, Shape, TensorLike


def checked_examples(images: TensorLike, shape: Shape, likelihood: Any, bounded: bool) -> tf.Tensor:
    """Validates examples and returns them as float32; scales uint8 pictures to their range.

    Args:
        images: examples `[N, *shape]`.
        shape: shape of one example.
        likelihood: the likelihood of the model, with the range of the data.
        bounded: whether the examples must be in this range.

    Raises:
        TypeError: if the examples have another dtype.
        ValueError: if the examples have another shape, or are not finite or out of range.
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        low, high = likelihood.low, likelihood.high
        images = (images / 255 * (high - low) + low).astype("float32")
    check_data("images", images, shape, likelihood if bounded else None)
    return tf.constant(images, tf.float32)


def check_size(size: Any, data_shape: Shape) -> None:
    """Checks that a size of pictures has one positive integer per spatial axis.

    Raises:
        TypeError: if an entry is not a number.
        ValueError: if the number of entries is wrong, or an entry is not a positive integer.
    """
    if not isinstance(size, (tuple, list)) or len(size) != len(data_shape) - 1:
        raise ValueError(
            f"`size` must be None or {len(data_shape) - 1} numbers. Received: size={size!r}."
        )
    for number in size:
        check_count("size", number)


def check_denoising_network(
    network: Network, conditioner: Conditioner | None, shape: Shape
) -> None:
    """Checks by one symbolic call that a network can denoise z, and builds it.

    Args:
        network: network of any kind (`kgen.symbolic`), called as `network(z, log_snr, cond)`.
        conditioner: None, or the `Conditioner` whose output the network must accept.
        shape: shape of the z of one example, which the network must return.

    Raises:
        TypeError: if `network` is neither a network nor a function.
        ValueError: if the network does not accept the condition, or returns another shape.
    """
    graph = getattr(network, "graph", None)
    if graph is not None:  # a network of `kgen.networks`, which declares its inputs
        inputs = set(graph.input) & {"tokens", "pooled", "picture"}
        if conditioner is not None and not inputs:
            raise ValueError(
                "`network` must have an input for the condition of the conditioner: construct it "
                "with `pooled=...`, `tokens=...` or `picture=...`."
            )
        return
    cond = None
    if conditioner is not None:
        if not takes_condition(network, 2):
            raise ValueError(
                "`network` must accept the condition of the conditioner: "
                f"`network(z, log_snr, cond)`. Received: network={network!r}."
            )
        null = conditioner.null(1)
        cond = {key: symbolic(value.shape[1:], value.dtype) for key, value in null.items()}
    inputs = {"z": symbolic(shape), "log_snr": symbolic(()), "cond": cond}
    output = output_spec(network, inputs, "network")
    if tuple(getattr(output, "shape", ()))[1:] != shape:
        raise ValueError(
            f"`network` must return the shape of z, {shape}. "
            f"Received: {describe({'an output of': output})}."
        )
