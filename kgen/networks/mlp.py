"""Dense networks, for vectors, codes, and small pictures as vectors.

    x [B, ...] - flatten - [dense, activation] x layers - dense - reshape - [B, *output_shape]

With `gated`, a hidden layer is `a * sigmoid(b)` of two dense maps a and b.

References:
  Dauphin et al. (2017), https://arxiv.org/abs/1612.08083, eq. 1 (gated linear units).
  Tomczak and Welling (2018), https://arxiv.org/abs/1705.07120, appendix (gated dense VAE).
"""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops

from kgen.checks import check_count
from kgen.networks.conditional import ConditionalNetwork
from kgen.networks.embeddings import SinusoidalEmbedding, noise_position
from kgen.serialization import serializable
from kgen.types import Shape


def mlp(
    input_shapes: Shape | list[Shape],
    output_shape: tuple[int, ...],
    *,
    hidden: tuple[int, ...] = (200, 200),
    activation: str = "tanh",
    gated: bool = False,
    name: str = "mlp",
) -> keras.Model:
    """Builds a dense network of one input, or of the concatenation of several inputs.

    Args:
        input_shapes: shape of the input without the batch, such as `(28, 28, 1)`, or a list of
            shapes for several inputs.
        output_shape: shape of the output without the batch.
        hidden: widths of the hidden layers.
        activation: activation of the hidden layers; ignored if they are gated.
        gated: whether the hidden layers are gated linear units.
        name: name of the model.

    Returns:
        A `keras.Model` with a float32 output.

    Example:
        >>> mlp((28, 28, 1), (100,)).count_params()
        217300
    """
    several = isinstance(input_shapes, list)
    inputs = [keras.Input(shape) for shape in (input_shapes if several else [input_shapes])]
    flat = [layers.Flatten()(x) if len(x.shape) != 2 else x for x in inputs]
    h = layers.Concatenate()(flat) if several and len(flat) > 1 else flat[0]
    for i, width in enumerate(hidden):
        if gated:
            h = layers.Dense(width, name=f"dense_{i}")(h) * layers.Dense(
                width, activation="sigmoid", name=f"gate_{i}"
            )(h)
        else:
            h = layers.Dense(width, activation=activation, name=f"dense_{i}")(h)
    h = layers.Dense(math.prod(output_shape), dtype="float32", name="dense_out")(h)
    if len(output_shape) != 1:
        h = layers.Reshape(output_shape, dtype="float32")(h)
    return keras.Model(inputs if several else inputs[0], h, name=name)


@serializable
class TimeMLP(ConditionalNetwork):
    """Dense residual network of a noisy vector, its log-SNR and a condition.

    A block has two dense layers, between which the embedding of the log-SNR is added.

    Args:
        size: D, the length of the noisy vector and of the output.
        width: width of the blocks.
        blocks: number of blocks.
        pooled: None, or the width of the pooled condition.
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, D]`.
        log_snr: `[B]`.
        cond: a dictionary with `"pooled"` `[B, P]`, if the network was made for one.

    Example:
        >>> TimeMLP(2, width=16)(ops.zeros((3, 2)), ops.zeros((3,))).shape
        TensorShape([3, 2])
    """

    def __init__(
        self,
        size: int,
        *,
        width: int = 128,
        blocks: int = 3,
        pooled: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("size", size), ("width", width), ("blocks", blocks)):
            check_count(name, value)
        self.connect((size,), lambda inputs: _time_mlp(inputs, size, width, blocks), pooled=pooled)


def _time_mlp(
    inputs: dict[str, keras.KerasTensor], size: int, width: int, blocks: int
) -> keras.KerasTensor:
    position = noise_position(inputs["log_snr"])
    e = layers.Dense(width, name="noise")(SinusoidalEmbedding(width, name="sinusoid")(position))
    if "pooled" in inputs:
        e = e + layers.Dense(width, name="pooled_dense")(inputs["pooled"])
    # In float32: near the data the noise is below the precision of bfloat16.
    h = layers.Dense(width, dtype="float32", name="dense_in")(inputs["z"])
    for i in range(blocks):
        middle = layers.Dense(width, name=f"block_{i}_in")(ops.silu(h))
        middle = middle + layers.Dense(width, name=f"block_{i}_noise")(ops.silu(e))
        h = h + layers.Dense(width, name=f"block_{i}_out")(ops.silu(middle))
    last = layers.Dense(size, kernel_initializer="zeros", dtype="float32", name="dense_out")
    return last(ops.silu(h))


@serializable
class KSparse(layers.Layer):
    """A layer that keeps the `k` largest values of each code and sets the others to zero.

    Args:
        k: number of values to keep on the last axis.
        **kwargs: `name` and `dtype` of a Keras layer.

    Raises:
        ValueError: if `k` is less than 1.

    Reference:
        Makhzani and Frey (2013), https://arxiv.org/abs/1312.5663, section 2.

    Example:
        >>> KSparse(1)(ops.convert_to_tensor([[1.0, 3.0, 2.0]])).numpy().tolist()
        [[0.0, 3.0, 0.0]]
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("k", k)
        self.k = k

    def call(self, code: tf.Tensor) -> tf.Tensor:
        """Returns the sparse codes, `[B, ..., C]`."""
        smallest = ops.top_k(code, min(self.k, code.shape[-1]))[0][..., -1:]
        return ops.where(code >= smallest, code, ops.zeros_like(code))
