"""The building blocks of the Stable Diffusion networks, with the published constants.

    residual      GroupNorm - SiLU - conv 3x3 - (+ time) - GroupNorm - SiLU - conv 3x3 - (+ x)
    transformer   GroupNorm - linear - [ LN - self-attention, LN - cross-attention, LN - GEGLU ] x n
                  - linear - (+ x)

The functions take and return symbolic tensors of the Keras functional API. Pictures are
`[B, H, W, C]`; data with one or three spatial axes are `[B, L, C]` and `[B, D, H, W, C]`.
Embeddings are `[B, E]`, text tokens `[B, L, D]` with a mask `[B, L]`.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, appendix E and section 3.3.
  Shazeer (2020), https://arxiv.org/abs/2002.05202 (GEGLU).
  Wu and He (2018), https://arxiv.org/abs/1803.08494 (group normalisation).
"""

from typing import Any

import keras
from keras import layers, ops

from kgen.checks import check_one_of
from kgen.networks.attention import Attention
from kgen.networks.conditional import dtype_policy
from kgen.networks.conv2d import Conv2D
from kgen.networks.gated_gelu import GatedGELU
from kgen.networks.norm import GroupNorm
from kgen.networks.shapes import Pixels, fold, tokens, unfold
from kgen.networks.upsample import UpsampleConv

__all__ = [
    "Attention",
    "GroupNorm",
    "UpsampleConv",
    "attention_block",
    "conv",
    "downsample",
    "dtype_policy",
    "fold",
    "geglu",
    "group_norm",
    "residual_block",
    "transformer_block",
    "unfold",
    "upsample",
]

HALVINGS = ("after", "both")


def group_norm(
    x: keras.KerasTensor,
    name: str,
    epsilon: float = 1e-5,
    activation: str | None = None,
    shift: keras.KerasTensor | None = None,
    groups: int | None = None,
) -> keras.KerasTensor:
    """Applies group normalisation, optionally with a shift before it and a SiLU after it.

    Args:
        x: `[B, ..., C]`.
        name: name of the layer.
        epsilon: added to the variance.
        activation: None or `"silu"`.
        shift: None or `[B, C]`, added to `x` first.
        groups: number of groups; None for the largest divisor of the channels up to 32 with at
            least 4 channels per group.
    """
    channels = x.shape[-1]
    if groups is None:
        most = max(1, min(32, channels // 4))
        groups = next(n for n in range(most, 0, -1) if channels % n == 0)
    return GroupNorm(groups, epsilon, activation, name=name)(x, shift=shift)


def conv(
    x: keras.KerasTensor,
    channels: int,
    name: str,
    kernel: int | tuple[int, ...] = 3,
    strides: int | tuple[int, ...] = 1,
    padding: str = "same",
    **options: Any,
) -> keras.KerasTensor:
    """Applies a convolution over the spatial axes of `x`, of which it has one to three."""
    rank = spatial_rank(x)
    kind = Conv2D if rank == 2 else getattr(layers, f"Conv{rank}D")
    return kind(channels, kernel, strides, padding, name=name, **options)(x)


def spatial_rank(x: keras.KerasTensor) -> int:
    """Returns the number of spatial axes of `x`, `[B, ..., C]`.

    Raises:
        ValueError: if it is not one, two or three.
    """
    rank = len(x.shape) - 2
    if rank not in (1, 2, 3):
        raise ValueError(
            "Data must have one, two or three spatial axes before the channels. "
            f"Received: shape {tuple(x.shape[1:])}."
        )
    return rank


def residual_block(
    x: keras.KerasTensor,
    channels: int,
    name: str,
    embedding: keras.KerasTensor | None = None,
    epsilon: float = 1e-5,
    dropout: float = 0.0,
    groups: int | None = None,
) -> keras.KerasTensor:
    """Applies a residual block of two convolutions.

    Args:
        x: `[B, ..., C]`.
        channels: channels of the output.
        name: prefix of the layers' names.
        embedding: None, or `[B, E]`, which is projected and added between the convolutions.
        epsilon: added to the variance in group normalisations.
        dropout: dropout rate before the second convolution.
        groups: see `group_norm`.
    """
    h = group_norm(x, f"{name}_norm1", epsilon, "silu", groups=groups)
    h = conv(h, channels, f"{name}_conv1")
    shift = None
    if embedding is not None:
        shift = layers.Dense(channels, name=f"{name}_time")(ops.silu(embedding))
    h = group_norm(h, f"{name}_norm2", epsilon, "silu", shift, groups)
    if dropout:
        h = layers.Dropout(dropout, name=f"{name}_dropout")(h)
    h = conv(h, channels, f"{name}_conv2", kernel_initializer="zeros")
    if x.shape[-1] != channels:
        x = conv(x, channels, f"{name}_skip", kernel=1)
    return x + h


def attention_block(
    x: keras.KerasTensor,
    name: str,
    heads: int = 1,
    epsilon: float = 1e-6,
    groups: int | None = None,
    bias: bool = False,
) -> keras.KerasTensor:
    """Applies residual self-attention over the pixels, as in DDPM and the autoencoder.

    Args:
        x: `[B, ..., C]`.
        name: prefix of the layers' names.
        heads: number of attention heads.
        epsilon: added to the variance in the group normalisation.
        groups: see `group_norm`.
        bias: whether queries, keys and values have a bias.
    """
    h = tokens(group_norm(x, f"{name}_norm", epsilon, groups=groups))
    h = Attention(heads, bias=bias, name=name)(h, h)
    return x + Pixels()(h, x)


def transformer_block(
    x: keras.KerasTensor,
    name: str,
    heads: int,
    context: keras.KerasTensor | None = None,
    mask: keras.KerasTensor | None = None,
    depth: int = 1,
    groups: int | None = None,
    bias: bool = False,
) -> keras.KerasTensor:
    """Applies a spatial transformer: `depth` layers of self-, cross-attention and feed-forward.

    Args:
        x: `[B, ..., C]`.
        name: prefix of the names; the layers after the first have the prefixes `name_1`, ...
        heads: number of attention heads.
        context: None, or text tokens `[B, L, D]` for the cross-attention.
        mask: bool `[B, L]`, with `context`.
        depth: number of transformer layers.
        groups: see `group_norm`.
        bias: whether queries, keys and values have a bias.
    """
    channels = x.shape[-1]
    h = tokens(group_norm(x, f"{name}_norm", 1e-6, groups=groups))
    h = layers.Dense(channels, name=f"{name}_proj_in")(h)
    for k in range(depth):
        part = name if k == 0 else f"{name}_{k}"
        n = layers.LayerNormalization(epsilon=1e-5, name=f"{part}_norm1")(h)
        h = h + Attention(heads, bias=bias, name=f"{part}_attn1")(n, n)
        if context is not None:
            n = layers.LayerNormalization(epsilon=1e-5, name=f"{part}_norm2")(h)
            h = h + Attention(heads, bias=bias, name=f"{part}_attn2")(n, context, mask)
        n = layers.LayerNormalization(epsilon=1e-5, name=f"{part}_norm3")(h)
        h = h + geglu(n, f"{part}_ff")
    h = layers.Dense(channels, kernel_initializer="zeros", name=f"{name}_proj_out")(h)
    return x + Pixels()(h, x)


def geglu(x: keras.KerasTensor, name: str, factor: int = 4) -> keras.KerasTensor:
    """Applies a gated feed-forward layer, `W_out (a * gelu(b))` with `[a, b] = W_in x`."""
    channels = x.shape[-1]
    x = layers.Dense(2 * factor * channels, name=f"{name}_in")(x)
    return layers.Dense(channels, name=f"{name}_out")(GatedGELU(name=f"{name}_gate")(x))


def downsample(x: keras.KerasTensor, name: str, halving: str = "after") -> keras.KerasTensor:
    """Halves every size by a strided 3 x 3 convolution.

    Args:
        x: `[B, ..., C]`, of even sizes, or of any sizes with `"both"`, which rounds a half up.
        name: name of the layer.
        halving: where the input is padded with zeros: `"after"` the last pixel of each axis (DDPM,
            the Stable Diffusion autoencoder), or on `"both"` sides (the Stable Diffusion U-Net).
    """
    check_one_of("halving", halving, HALVINGS)
    if halving == "after":
        return conv(x, x.shape[-1], name, strides=2)
    x = ops.pad(x, [[0, 0], *[[1, 1]] * spatial_rank(x), [0, 0]])
    return conv(x, x.shape[-1], name, strides=2, padding="valid")


def upsample(
    x: keras.KerasTensor, name: str, like: keras.KerasTensor | None = None
) -> keras.KerasTensor:
    """Doubles every size by nearest-neighbour interpolation and a convolution.

    Args:
        x: `[B, ..., C]`.
        name: name of the layer.
        like: None, or a tensor whose sizes the result has, twice those of `x` or one less.
    """
    return UpsampleConv(x.shape[-1], name=name)(x, like)
