"""The blocks of the Stable Diffusion networks, in the published order and with its constants.

Two things differ from published weights: a halving pads below and to the right alone, as the
autoencoder does, in the U-Net too; and the projections to queries, keys and values have no bias.

    residual      GroupNorm - SiLU - conv 3x3 - (+ time) - GroupNorm - SiLU - conv 3x3 - (+ x)
    transformer   GroupNorm - linear - [ LN - self-attention, LN - cross-attention, LN - GEGLU ]
                  - linear - (+ x)

Functions take and return symbolic tensors of the Keras functional API, so a network reads as its
data flow. Images are `[B, H, W, C]`, embeddings `[B, E]`, text tokens `[B, L, D]` with a mask `[B,
L]`.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, appendix E and section 3.3.
  Shazeer (2020), https://arxiv.org/abs/2002.05202 (GEGLU).
  Wu and He (2018), https://arxiv.org/abs/1803.08494 (group normalisation).
"""

import contextlib

import keras
from keras import layers, ops

from kgen.networks.norm import GroupNorm
from kgen.networks.upsample import UpsampleConv
from kgen.serialization import serializable


@contextlib.contextmanager
def dtype_policy(policy):
    """Builds the layers inside the `with` block under a Keras dtype policy."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


def network_inputs(graph, z, log_snr, cond):
    """The inputs of a conditional network, by name.

    Raises:
        ValueError: if the condition has not what the network was made for.
    """
    inputs = {"z": z, "log_snr": log_snr}
    for key in ("tokens", "mask", "pooled"):
        if key in graph.input:
            if cond is None or key not in cond:
                raise ValueError(
                    f"`cond` must have the key {key!r} that this network was made for. "
                    f"Received: {None if cond is None else sorted(cond)}."
                )
            inputs[key] = cond[key]
    return inputs


@serializable
class Attention(layers.Layer):
    """Multi-head scaled dot-product attention, `[B, N, C]` to `[B, N, C]`.

    Args:
        heads: number of heads; must divide the channels of the query.
    """

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, x_shape, context_shape, mask_shape=None):
        """Creates the four projections."""
        channels = x_shape[-1]
        if channels % self.heads:
            raise ValueError(
                f"`heads` must divide the channels. "
                f"Received: heads={self.heads}, channels={channels}."
            )

        def dense(name, width, bias):
            layer = layers.Dense(channels, use_bias=bias, dtype=self.dtype_policy, name=name)
            layer.build((None, None, width))
            return layer

        self.to_q = dense("to_q", channels, False)
        self.to_k = dense("to_k", context_shape[-1], False)
        self.to_v = dense("to_v", context_shape[-1], False)
        self.to_out = dense("to_out", channels, True)

    def call(self, x, context, mask=None):
        """Attends from `x` to `context`, to its positions where `mask`, `[B, L]`, is true."""
        scale = (x.shape[-1] // self.heads) ** -0.5
        q = self._split(self.to_q(x) * scale, (0, 2, 1, 3))
        k = self._split(self.to_k(context), (0, 2, 3, 1))
        v = self._split(self.to_v(context), (0, 2, 1, 3))
        scores = ops.cast(ops.matmul(q, k), "float32")
        if mask is not None:
            scores = ops.where(mask[:, None, None, :], scores, -1e9)
        attention = ops.cast(ops.softmax(scores, axis=-1), v.dtype)
        out = ops.transpose(ops.matmul(attention, v), (0, 2, 1, 3))
        return self.to_out(ops.reshape(out, (-1, *x.shape[1:])))

    def compute_output_shape(self, x_shape, context_shape, mask_shape=None):
        """The shape of `x`."""
        return x_shape

    def _split(self, a, axes):
        a = ops.reshape(a, (-1, a.shape[1], self.heads, a.shape[2] // self.heads))
        return ops.transpose(a, axes)


def group_norm(x, name, epsilon=1e-5, activation=None, shift=None):
    """GroupNorm with the most groups that divide the channels: up to 32, of 4 channels or more."""
    channels = x.shape[-1]
    most = max(1, min(32, channels // 4))
    groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return GroupNorm(groups, epsilon, activation, name=name)(x, shift=shift)


def conv(x, channels, name, kernel=3, strides=1, **options):
    """A "same" convolution."""
    return layers.Conv2D(channels, kernel, strides, "same", name=name, **options)(x)


def residual_block(x, channels, name, embedding=None, epsilon=1e-5, dropout=0.0):
    """Two convolutions and a skip; `embedding`, `[B, E]`, is added between them."""
    h = conv(group_norm(x, f"{name}_norm1", epsilon, "silu"), channels, f"{name}_conv1")
    shift = None
    if embedding is not None:
        shift = layers.Dense(channels, name=f"{name}_time")(ops.silu(embedding))
    h = group_norm(h, f"{name}_norm2", epsilon, "silu", shift)
    if dropout:
        h = layers.Dropout(dropout, name=f"{name}_dropout")(h)
    h = conv(h, channels, f"{name}_conv2", kernel_initializer="zeros")
    if x.shape[-1] != channels:
        x = conv(x, channels, f"{name}_skip", kernel=1)
    return x + h


def attention_block(x, name, heads=1, epsilon=1e-6):
    """Self-attention over the pixels with a skip (the middle of the autoencoder)."""
    _, height, width, channels = x.shape
    h = layers.Reshape((height * width, channels))(group_norm(x, f"{name}_norm", epsilon))
    h = Attention(heads, name=name)(h, h)
    return x + layers.Reshape((height, width, channels))(h)


def transformer_block(x, name, heads, tokens=None, mask=None):
    """Spatial transformer: self-attention, cross-attention to `tokens`, GEGLU, each with a skip."""
    _, height, width, channels = x.shape
    h = layers.Reshape((height * width, channels))(group_norm(x, f"{name}_norm", 1e-6))
    h = layers.Dense(channels, name=f"{name}_proj_in")(h)
    n = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm1")(h)
    h = h + Attention(heads, name=f"{name}_attn1")(n, n)
    if tokens is not None:
        n = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm2")(h)
        h = h + Attention(heads, name=f"{name}_attn2")(n, tokens, mask)
    n = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm3")(h)
    h = h + geglu(n, f"{name}_ff")
    h = layers.Dense(channels, kernel_initializer="zeros", name=f"{name}_proj_out")(h)
    return x + layers.Reshape((height, width, channels))(h)


def geglu(x, name, factor=4):
    """Gated feed-forward: `W_out (a * gelu(b))` with `[a, b] = W_in x`."""
    channels = x.shape[-1]
    a, gate = ops.split(layers.Dense(2 * factor * channels, name=f"{name}_in")(x), 2, axis=-1)
    return layers.Dense(channels, name=f"{name}_out")(a * ops.gelu(gate, approximate=False))


def downsample(x, name):
    """Halves the height and the width by a strided convolution."""
    return conv(x, x.shape[-1], name, strides=2)


def upsample(x, name):
    """Doubles the height and the width: nearest neighbour, then a convolution."""
    return UpsampleConv(x.shape[-1], name=name)(x)


def fold(x, patch):
    """Puts squares of pixels into channels, in float32: `[B, H/p, W/p, p^2 C]`."""
    if patch == 1:
        return x
    _, height, width, channels = x.shape
    rows, columns, options = height // patch, width // patch, {"dtype": "float32"}
    x = layers.Reshape((rows, patch, columns, patch, channels), **options)(x)
    x = layers.Permute((1, 3, 2, 4, 5), **options)(x)
    return layers.Reshape((rows, columns, patch**2 * channels), **options)(x)


def unfold(x, patch):
    """Takes squares of pixels out of channels, in float32: the inverse of `fold`."""
    if patch == 1:
        return x
    _, rows, columns, width = x.shape
    channels, options = width // patch**2, {"dtype": "float32"}
    x = layers.Reshape((rows, columns, patch, patch, channels), **options)(x)
    x = layers.Permute((1, 3, 2, 4, 5), **options)(x)
    return layers.Reshape((rows * patch, columns * patch, channels), **options)(x)
