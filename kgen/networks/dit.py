"""The diffusion transformer (DiT), with text conditioning by cross-attention.

    z [B, H, W, C] - patches - linear + position - block x depth - linear - patches back

    block   h <- h + g_1 attention((1 + s_1) LN(h) + b_1)
            h <- h + cross-attention(LN(h), tokens)                    with text only
            h <- h + g_2 mlp((1 + s_2) LN(h) + b_2),     (s, b, g) = linear(SiLU(embedding))

The linear maps to s, b, g are initialised with zeros ("adaLN-Zero"), so every block is the identity
at first. The embedding is that of the log-SNR plus the pooled condition; text tokens enter by
cross-attention, as in PixArt. Data have one, two or three spatial axes of any size: positions are
computed for the size of the input, which is padded to a multiple of `patch` and cropped at the end.

References:
  Peebles and Xie (2023), https://arxiv.org/abs/2212.09748, section 3.2 and figure 3.
  Chen et al. (2024), https://arxiv.org/abs/2310.00426, section 2.3 (cross-attention to text).
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from kgen.checks import check_count
from kgen.networks.attention import Attention
from kgen.networks.blocks import spatial_rank
from kgen.networks.conditional import ConditionalNetwork
from kgen.networks.embeddings import SinusoidalEmbedding, noise_position
from kgen.networks.shapes import Crop, Pad, Pixels, fold, tokens, unfold
from kgen.serialization import serializable
from kgen.types import Shape


@serializable
class DiT(ConditionalNetwork):
    """Diffusion transformer from a noisy picture, its log-SNR and a condition to a picture.

    Args:
        shape: shape of the noisy input and of the output: `(H, W, C)`, `(L, C)` or `(D, H, W, C)`.
            The sizes are those of the model's data; the network accepts other sizes too. None for a
            size that varies.
        patch: side of the squares of pixels that become one token.
        width: width of a token.
        depth: number of blocks.
        heads: number of attention heads.
        tokens: None, or `(L, D)`: the length of the text, None for any, and the token width.
        pooled: None, or the width of the pooled condition.
        picture: None, or the number of channels of a picture that is concatenated to the input.
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, H, W, C]`.
        log_snr: `[B]`.
        cond: a dictionary with `"tokens"` `[B, L, D]`, `"mask"` `[B, L]`, `"pooled"` `[B, P]` and
            `"picture"` `[B, H, W, Q]`, whichever the network was made for.

    Raises:
        ValueError: if the sizes are not compatible.

    Example:
        >>> network = DiT((8, 8, 4), width=16, depth=1, heads=2)
        >>> network(ops.zeros((2, 8, 8, 4)), ops.zeros((2,))).shape
        TensorShape([2, 8, 8, 4])
    """

    def __init__(
        self,
        shape: Shape,
        *,
        patch: int = 2,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        tokens: tuple[int | None, int] | None = None,
        pooled: int | None = None,
        picture: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for option, value in (
            ("patch", patch),
            ("width", width),
            ("depth", depth),
            ("heads", heads),
        ):
            check_count(option, value)
        multiple = 2 * (len(shape) - 1)
        if width % heads or width % multiple:
            raise ValueError(
                f"`width` must be divisible by {multiple} and by `heads`. "
                f"Received: {width}, heads={heads}."
            )

        def output(inputs: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
            z = inputs["z"]
            h = z
            if picture is not None:
                h = layers.Concatenate(dtype="float32")([z, inputs["picture"]])
            h = fold(Pad(patch, dtype="float32", name="pad_in")(h), patch)
            h = _dit(inputs, h, z.shape[-1] * patch ** spatial_rank(z), width, depth, heads)
            return Crop(dtype="float32", name="crop_out")(unfold(h, patch), z)

        self.connect(shape, output, tokens=tokens, pooled=pooled, picture=picture, any_size=True)


@serializable
class Positions(layers.Layer):
    """Adds sinusoidal embeddings of the positions of tokens, with equal channels per spatial axis.

    Args:
        **kwargs: `name` and `dtype` of a Keras layer.

    Call arguments:
        x: `[B, H W, C]`.
        like: `[B, H, W, c]`, the size of the grid of tokens.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def call(self, x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
        """Adds the positions to `x`."""
        sizes = ops.shape(like)[1:-1]
        part = x.shape[-1] // (2 * len(sizes))
        frequencies = tf.constant(10000.0 ** (-np.arange(part) / part))
        axes = [tf.cast(tf.range(size), tf.float64) for size in sizes]
        grid = [tf.reshape(axis, [-1, 1]) for axis in tf.meshgrid(*axes, indexing="ij")]
        angles = tf.concat([axis * frequencies for axis in grid], axis=1)
        table = tf.concat([tf.sin(angles), tf.cos(angles)], axis=1)
        return x + tf.cast(table[None], x.dtype)

    def compute_output_shape(self, x_shape: Shape, like_shape: Shape) -> Shape:
        """Returns the shape of `x`."""
        return x_shape


def _dit(
    inputs: dict[str, keras.KerasTensor],
    z: keras.KerasTensor,
    channels_out: int,
    width: int,
    depth: int,
    heads: int,
) -> keras.KerasTensor:
    context, mask = inputs.get("tokens"), inputs.get("mask")
    embedding = layers.Dense(width, name="noise_dense_1")(
        SinusoidalEmbedding(width, name="noise_embedding")(noise_position(inputs["log_snr"]))
    )
    embedding = layers.Dense(width, name="noise_dense_2")(ops.silu(embedding))
    if "pooled" in inputs:
        embedding = embedding + layers.Dense(width, name="pooled_dense")(inputs["pooled"])
    embedding = ops.silu(embedding)

    h = tokens(z, dtype="float32")
    # In float32: near the data the noise is below the precision of bfloat16.
    h = layers.Dense(width, dtype="float32", name="patches_in")(h)
    h = Positions(name="positions")(h, z)
    for i in range(depth):
        name = f"block_{i}"
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _modulation(embedding, 6, name)
        n = _modulated(h, shift_1, scale_1, f"{name}_norm1")
        h = h + gate_1 * Attention(heads, name=f"{name}_attn1")(n, n)
        if context is not None:
            n = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm_text")(h)
            h = h + Attention(heads, name=f"{name}_attn2")(n, context, mask)
        n = _modulated(h, shift_2, scale_2, f"{name}_norm2")
        n = ops.gelu(layers.Dense(4 * width, name=f"{name}_mlp_in")(n), approximate=True)
        h = h + gate_2 * layers.Dense(width, name=f"{name}_mlp_out")(n)
    shift, scale = _modulation(embedding, 2, "last")
    h = _modulated(h, shift, scale, "norm_out")
    last = layers.Dense(
        channels_out, kernel_initializer="zeros", dtype="float32", name="patches_out"
    )
    return Pixels(dtype="float32")(last(h), z)


def _modulation(embedding: keras.KerasTensor, parts: int, name: str) -> list[keras.KerasTensor]:
    """Returns `parts` shifts, scales and gates `[B, 1, C]`, all zero at first."""
    width = embedding.shape[-1]
    dense = layers.Dense(parts * width, kernel_initializer="zeros", name=f"{name}_modulation")
    return ops.split(dense(embedding)[:, None, :], parts, axis=-1)


def _modulated(
    h: keras.KerasTensor, shift: keras.KerasTensor, scale: keras.KerasTensor, name: str
) -> keras.KerasTensor:
    norm = layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, name=name)
    return (1 + scale) * norm(h) + shift
