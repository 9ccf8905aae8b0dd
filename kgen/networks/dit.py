"""The diffusion transformer: patches as tokens, the noise level as scale, shift and gate.

    z [B, H, W, C] - patches - linear + position - block x depth - linear - patches back

    block   h <- h + g_1 attention((1 + s_1) LN(h) + b_1)
            h <- h + cross-attention(LN(h), tokens)                    with text only
            h <- h + g_2 mlp((1 + s_2) LN(h) + b_2),     (s, b, g) = linear(SiLU(embedding))

The linear maps to s, b, g start at zero ("adaLN-Zero"), so every block begins as the identity. The
embedding is that of the log-SNR plus the pooled condition; text tokens are attended to, as in
PixArt.

References:
  Peebles and Xie (2023), https://arxiv.org/abs/2212.09748, section 3.2 and figure 3.
  Chen et al. (2024), https://arxiv.org/abs/2310.00426, section 2.3 (cross-attention to text).
"""

import keras
import numpy as np
from keras import layers, ops

from kgen.checks import check_count
from kgen.networks.blocks import Attention, dtype_policy, fold, network_inputs, unfold
from kgen.networks.embeddings import SinusoidalEmbedding, noise_position
from kgen.serialization import serializable


@serializable
class DiT(keras.Model):
    """Transformer that predicts an image-shaped tensor from a noisy one, its log-SNR, a condition.

    Args:
        shape: `(H, W, C)` of the noisy input and of the output.
        patch: side of the square of pixels that becomes one token.
        width: width of a token.
        depth: number of blocks.
        heads: attention heads.
        tokens: None, or `(L, D)`: length and width of the text tokens.
        pooled: None, or the width of the pooled condition vector.
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, H, W, C]`.
        log_snr: `[B]`.
        cond: a dictionary with `"tokens"` `[B, L, D]`, `"mask"` `[B, L]` and `"pooled"` `[B, P]`,
            whichever the network was made for.

    Raises:
        ValueError: if sizes do not fit together.

    Example:
        >>> network = DiT((8, 8, 4), width=16, depth=1, heads=2)
        >>> network(ops.zeros((2, 8, 8, 4)), ops.zeros((2,))).shape
        TensorShape([2, 8, 8, 4])
    """

    def __init__(
        self,
        shape,
        *,
        patch=2,
        width=256,
        depth=6,
        heads=4,
        tokens=None,
        pooled=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False
        for option, value in (
            ("patch", patch),
            ("width", width),
            ("depth", depth),
            ("heads", heads),
        ):
            check_count(option, value)
        if shape[0] % patch or shape[1] % patch:
            raise ValueError(f"`shape` must be divisible by `patch`={patch}. Received: {shape}.")
        if width % heads or width % 4:
            raise ValueError(
                f"`width` must be divisible by 4 and by `heads`. Received: {width}, heads={heads}."
            )
        inputs = {"z": keras.Input(shape, name="z"), "log_snr": keras.Input((), name="log_snr")}
        if tokens is not None:
            inputs["tokens"] = keras.Input(tokens, name="tokens")
            inputs["mask"] = keras.Input(tokens[:1], dtype="bool", name="mask")
        if pooled is not None:
            inputs["pooled"] = keras.Input((pooled,), name="pooled")
        with dtype_policy(self.dtype_policy):
            h = _dit(inputs, fold(inputs["z"], patch), width, depth, heads)
            self.graph = keras.Model(inputs, unfold(h, patch), name="graph")
        self.graph.autocast = False
        self.built = True

    @property
    def data_shape(self):
        """Shape of the noisy input, without the batch."""
        return tuple(self.graph.input["z"].shape[1:])

    def call(self, z, log_snr, cond=None, training=False):
        """Runs the network; see the class."""
        return self.graph(network_inputs(self.graph, z, log_snr, cond), training=training)


@serializable
class Positions(layers.Layer):
    """Adds the position of each token: half of the channels for its row, half for its column.

    Args:
        rows: tokens in a column.
        columns: tokens in a row.
    """

    def __init__(self, rows, columns, **kwargs):
        super().__init__(**kwargs)
        if rows * columns > 2**16:
            raise ValueError(f"`rows` times `columns` must be at most 65536. Received: {rows}.")
        self.rows = rows
        self.columns = columns

    def call(self, x):
        """Adds to `x`, `[B, rows * columns, C]`."""
        quarter = x.shape[-1] // 4
        frequencies = 10000.0 ** (-np.arange(quarter) / quarter)
        row, column = np.divmod(np.arange(self.rows * self.columns), self.columns)
        angles = np.concatenate([np.outer(row, frequencies), np.outer(column, frequencies)], axis=1)
        table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        return x + ops.cast(table[None], x.dtype)


def _dit(inputs, z, width, depth, heads):
    _, rows, columns, channels = z.shape
    tokens, mask = inputs.get("tokens"), inputs.get("mask")
    embedding = layers.Dense(width, name="noise_dense_1")(
        SinusoidalEmbedding(width, name="noise_embedding")(noise_position(inputs["log_snr"]))
    )
    embedding = layers.Dense(width, name="noise_dense_2")(ops.silu(embedding))
    if "pooled" in inputs:
        embedding = embedding + layers.Dense(width, name="pooled_dense")(inputs["pooled"])
    embedding = ops.silu(embedding)

    h = layers.Reshape((rows * columns, channels), dtype="float32")(z)
    # In float32: near the data its noise is less than bfloat16 can tell from the value itself.
    h = layers.Dense(width, dtype="float32", name="patches_in")(h)
    h = Positions(rows, columns, name="positions")(h)
    for i in range(depth):
        name = f"block_{i}"
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = _modulation(embedding, 6, name)
        n = _modulated(h, shift_1, scale_1, f"{name}_norm1")
        h = h + gate_1 * Attention(heads, name=f"{name}_attn1")(n, n)
        if tokens is not None:
            n = layers.LayerNormalization(epsilon=1e-6, name=f"{name}_norm_text")(h)
            h = h + Attention(heads, name=f"{name}_attn2")(n, tokens, mask)
        n = _modulated(h, shift_2, scale_2, f"{name}_norm2")
        n = ops.gelu(layers.Dense(4 * width, name=f"{name}_mlp_in")(n), approximate=True)
        h = h + gate_2 * layers.Dense(width, name=f"{name}_mlp_out")(n)
    shift, scale = _modulation(embedding, 2, "last")
    h = _modulated(h, shift, scale, "norm_out")
    out = layers.Dense(channels, kernel_initializer="zeros", dtype="float32", name="patches_out")(h)
    return layers.Reshape((rows, columns, channels), dtype="float32")(out)


def _modulation(embedding, parts, name):
    """Shifts, scales and gates `[B, 1, C]`, all zero at first."""
    width = embedding.shape[-1]
    dense = layers.Dense(parts * width, kernel_initializer="zeros", name=f"{name}_modulation")
    return ops.split(dense(embedding)[:, None, :], parts, axis=-1)


def _modulated(h, shift, scale, name):
    norm = layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, name=name)
    return (1 + scale) * norm(h) + shift
