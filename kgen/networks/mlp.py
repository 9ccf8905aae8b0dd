"""Dense networks, for flat data, for codes, and for small pictures taken as vectors.

    x [B, ...] - flatten - [dense, activation] x layers - dense - reshape - [B, *output_shape]

With `gated`, a layer is `a * sigmoid(b)` of two dense maps in the place of dense and activation.

References:
  Dauphin et al. (2017), https://arxiv.org/abs/1612.08083, eq. 1 (gated linear units).
  Tomczak and Welling (2018), https://arxiv.org/abs/1705.07120, appendix (gated dense VAE).
"""

import math

import keras
from keras import layers, ops

from kgen.serialization import serializable


def mlp(
    input_shapes, output_shape, *, hidden=(200, 200), activation="tanh", gated=False, name="mlp"
):
    """A dense network from one input, or several that are put side by side.

    Args:
        input_shapes: the shape of the input without the batch, such as `(28, 28, 1)`, or a list of
            shapes for several inputs.
        output_shape: shape of the output without the batch.
        hidden: width of each hidden layer.
        activation: of the hidden layers; without effect where they are gated.
        gated: whether the hidden layers are gated linear units.
        name: name of the model.

    Returns:
        A `keras.Model`, float32 at its end.

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
class KSparse(layers.Layer):
    """Keeps the `k` largest values of each code and sets the others to zero.

    Args:
        k: how many values to keep.

    Raises:
        ValueError: if `k` is less than 1.

    Reference:
        Makhzani and Frey (2013), https://arxiv.org/abs/1312.5663, section 2.

    Example:
        >>> KSparse(1)(ops.convert_to_tensor([[1.0, 3.0, 2.0]])).numpy().tolist()
        [[0.0, 3.0, 0.0]]
    """

    def __init__(self, k, **kwargs):
        super().__init__(**kwargs)
        if k < 1:
            raise ValueError(f"`k` must be at least 1. Received: k={k}.")
        self.k = k

    def call(self, code):
        """Codes `[B, ..., C]` with all but `k` of the last axis zero."""
        smallest = ops.top_k(code, min(self.k, code.shape[-1]))[0][..., -1:]
        return ops.where(code >= smallest, code, ops.zeros_like(code))
