"""The U-Net of Stable Diffusion, with configurable sizes.

    conv - [ (residual, transformer) x blocks, halve ] x levels          outputs are kept as skips
         - residual, transformer, residual
         - [ (residual, transformer) x (blocks + 1), double ] x levels   skips are concatenated
         - GroupNorm, SiLU - conv

The noise level enters every residual block through an embedding. Text enters in two ways: as a
pooled vector that is added to the embedding, and as tokens to which the transformers attend.

Data have one, two or three spatial axes: `(L, C)`, `(H, W, C)`, `(D, H, W, C)`. A network accepts
any size. A size that cannot be halved often enough is padded with zeros, and the output cropped;
with `halving="both"`, as in Stable Diffusion, an odd size is halved to the larger half, and the
doubled one is cropped to the size of its skip.

References:
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, appendix B (`transformers=False`).
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, section 3.3 and appendix E.
  Podell et al. (2023), https://arxiv.org/abs/2307.01952, section 2.1 (pooled text).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import layers, ops

from kgen.checks import check_count, check_one_of, check_positive
from kgen.networks.blocks import (
    HALVINGS,
    attention_block,
    conv,
    downsample,
    group_norm,
    residual_block,
    spatial_rank,
    transformer_block,
    upsample,
)
from kgen.networks.conditional import ConditionalNetwork
from kgen.networks.embeddings import NoisePosition, SinusoidalEmbedding, noise_position
from kgen.networks.levels import by_level
from kgen.networks.shapes import Crop, Pad, fold, unfold
from kgen.serialization import serializable
from kgen.types import Shape


@serializable
class UNet(ConditionalNetwork):
    """U-Net from a noisy picture, its log-SNR and a condition to a picture of the same shape.

    An argument that is "per level" is one value for all levels, or a tuple with one per level.

    Args:
        shape: shape of the noisy input and of the output: `(H, W, C)`, `(L, C)` or `(D, H, W, C)`.
            The sizes are those of the model's data; the network accepts other sizes too. None for a
            size that varies.
        channels: number of channels at each level; the sizes are halved between two levels.
        blocks: number of residual blocks of the downward path, per level; the upward path has one
            more.
        attention: whether residual blocks are followed by attention, per level.
        heads: number of attention heads, per level.
        head_width: None, or the width of an attention head, per level, instead of `heads`.
        transformers: whether attention is part of a spatial transformer, with feed-forward layers;
            False for self-attention alone as in DDPM's U-Net, which has no text tokens.
        depth: number of layers in a transformer, per level.
        attention_bias: whether queries, keys and values have a bias.
        middle_attention: whether there is attention at the lowest resolution between both paths.
        tokens: None, or `(L, D)`: the length of the text, None for any, and the token width.
        pooled: None, or the width of the pooled condition.
        pooled_dense: whether two dense layers are applied to the pooled condition before it is
            added to the embedding of the noise; without them its width must be `4 * channels[0]`.
        picture: None, or the number of channels of a picture that is concatenated to the input.
        noise_position: function from log-SNR `[B]` to the position `[B]` that is embedded, such as
            the index of a noise level, of a class that Keras can serialise; None for
            `kgen.networks.noise_position`.
        sin_first: whether the sines precede the cosines in the embedding of the position.
        freq_shift: see `kgen.networks.SinusoidalEmbedding`.
        halving: where a downsampling pads: `"after"` the last pixel of each axis, or on `"both"`
            sides. With `"both"` odd sizes are halved to the larger half instead of padded.
        groups: number of groups in group normalisations; None for the rule of
            `kgen.networks.group_norm`.
        epsilon: added to the variance in group normalisations; always 1e-6 in transformers.
        dropout: dropout rate in the residual blocks.
        patch: side of the squares of pixels that are folded into channels first and unfolded last.
            1 is the published layout; 2 omits the most expensive level.
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, H, W, C]`.
        log_snr: `[B]`.
        cond: a dictionary with `"tokens"` `[B, L, D]`, `"mask"` `[B, L]`, `"pooled"` `[B, P]` and
            `"picture"` `[B, H, W, Q]`, whichever the network was made for.

    Raises:
        TypeError: if `noise_position` is not a function.
        ValueError: if the sizes are not compatible.

    Example:
        >>> network = UNet((8, 8, 4), channels=(16, 32), attention=(False, True), heads=2)
        >>> network(ops.zeros((2, 8, 8, 4)), ops.zeros((2,))).shape
        TensorShape([2, 8, 8, 4])
        >>> network(ops.zeros((2, 11, 6, 4)), ops.zeros((2,))).shape
        TensorShape([2, 11, 6, 4])
    """

    def __init__(
        self,
        shape: Shape,
        *,
        channels: tuple[int, ...] = (128, 256),
        blocks: int | tuple[int, ...] = 2,
        attention: bool | tuple[bool, ...] = (True, True),
        heads: int | tuple[int, ...] = 4,
        head_width: int | tuple[int, ...] | None = None,
        transformers: bool = True,
        depth: int | tuple[int, ...] = 1,
        attention_bias: bool = False,
        middle_attention: bool = True,
        tokens: tuple[int | None, int] | None = None,
        pooled: int | None = None,
        pooled_dense: bool = True,
        picture: int | None = None,
        noise_position: Callable | None = None,
        sin_first: bool = False,
        freq_shift: float = 0.0,
        halving: Literal["after", "both"] = "after",
        groups: int | None = None,
        epsilon: float = 1e-5,
        dropout: float = 0.0,
        patch: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_count("patch", patch)
        if groups is not None:
            check_count("groups", groups)
        check_one_of("halving", halving, HALVINGS)
        check_positive("epsilon", epsilon)
        channels = tuple(channels)
        if tokens is not None and not transformers:
            raise ValueError(
                "`tokens` need `transformers`, whose attention reads them. "
                f"Received: tokens={tokens}, transformers={transformers}."
            )
        if pooled is not None and not pooled_dense and pooled != 4 * channels[0]:
            raise ValueError(
                "`pooled` must be 4 * channels[0], the width of the embedding that it is added to "
                f"without dense layers. Received: pooled={pooled}, channels={channels}."
            )
        count = len(channels)
        if head_width is None:
            heads = by_level("heads", heads, count)
        else:
            heads = _heads(channels, by_level("head_width", head_width, count))
        plan = _Plan(
            channels=channels,
            blocks=by_level("blocks", blocks, count),
            attention=_attention(attention, channels),
            heads=heads,
            depth=by_level("depth", depth, count),
            transformers=transformers,
            middle_attention=middle_attention,
            attention_bias=attention_bias,
            halving=halving,
            groups=groups,
            epsilon=epsilon,
            dropout=dropout,
        )
        noise = _Noise(noise_position, sin_first, freq_shift, pooled_dense)

        def output(inputs: dict[str, keras.KerasTensor]) -> keras.KerasTensor:
            z = inputs["z"]
            h = z
            if picture is not None:
                h = layers.Concatenate(dtype="float32")([z, inputs["picture"]])
            multiple = patch if halving == "both" else patch * 2 ** (count - 1)
            h = Pad(multiple, dtype="float32", name="pad_in")(h)
            embedding = _embed(inputs, 4 * channels[0], noise)
            channels_out = z.shape[-1] * patch ** spatial_rank(z)
            h = _unet(inputs, fold(h, patch), channels_out, embedding, plan)
            return Crop(dtype="float32", name="crop_out")(unfold(h, patch), z)

        self.connect(shape, output, tokens=tokens, pooled=pooled, picture=picture, any_size=True)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The sizes and options of a U-Net, level by level."""

    channels: tuple
    blocks: tuple
    attention: tuple
    heads: tuple
    depth: tuple
    transformers: bool
    middle_attention: bool
    attention_bias: bool
    halving: str
    groups: int | None
    epsilon: float
    dropout: float

    def residual(
        self, h: keras.KerasTensor, level: int, name: str, embedding: keras.KerasTensor
    ) -> keras.KerasTensor:
        """Applies a residual block."""
        return residual_block(
            h, self.channels[level], name, embedding, self.epsilon, self.dropout, self.groups
        )

    def attend(
        self, h: keras.KerasTensor, level: int, name: str, inputs: dict[str, keras.KerasTensor]
    ) -> keras.KerasTensor:
        """Applies a spatial transformer, or self-attention without `transformers`."""
        heads, options = self.heads[level], {"groups": self.groups, "bias": self.attention_bias}
        if not self.transformers:
            return attention_block(h, name, heads, self.epsilon, **options)
        context, mask = inputs.get("tokens"), inputs.get("mask")
        return transformer_block(h, name, heads, context, mask, self.depth[level], **options)


@dataclasses.dataclass(frozen=True)
class _Noise:
    """The options of the embedding of the noise level and of the pooled condition."""

    position: Callable | None
    sin_first: bool
    freq_shift: float
    pooled_dense: bool


def _unet(
    inputs: dict[str, keras.KerasTensor],
    h: keras.KerasTensor,
    channels_out: int,
    embedding: keras.KerasTensor,
    plan: _Plan,
) -> keras.KerasTensor:
    def block(h: keras.KerasTensor, level: int, name: str) -> keras.KerasTensor:
        h = plan.residual(h, level, f"{name}_res", embedding)
        if plan.attention[level]:
            h = plan.attend(h, level, f"{name}_attn", inputs)
        return h

    last = len(plan.channels) - 1
    # In float32: near the data the noise is below the precision of bfloat16.
    h = conv(h, plan.channels[0], "conv_in", dtype="float32")
    skips = [h]
    for level in range(last + 1):
        for i in range(plan.blocks[level]):
            h = block(h, level, f"down_{level}_{i}")
            skips.append(h)
        if level < last:
            h = downsample(h, f"down_{level}_downsample", plan.halving)
            skips.append(h)
    h = plan.residual(h, last, "mid_0_res", embedding)
    if plan.middle_attention:
        h = plan.attend(h, last, "mid_attn", inputs)
    h = plan.residual(h, last, "mid_1_res", embedding)
    for level in reversed(range(last + 1)):
        for i in range(plan.blocks[level] + 1):
            h = block(ops.concatenate([h, skips.pop()], axis=-1), level, f"up_{level}_{i}")
        if level > 0:
            like = skips[-1] if plan.halving == "both" else None
            h = upsample(h, f"up_{level}_upsample", like)
    h = group_norm(h, "norm_out", plan.epsilon, "silu", groups=plan.groups)
    return conv(h, channels_out, "conv_out", kernel_initializer="zeros", dtype="float32")


def _embed(inputs: dict[str, keras.KerasTensor], width: int, noise: _Noise) -> keras.KerasTensor:
    log_snr = inputs["log_snr"]
    if noise.position is None:
        position = noise_position(log_snr)
    else:
        position = NoisePosition(noise.position, name="noise_position")(log_snr)
    waves = SinusoidalEmbedding(
        width // 4, sin_first=noise.sin_first, freq_shift=noise.freq_shift, name="noise_embedding"
    )
    h = layers.Dense(width, name="noise_dense_1")(waves(position))
    h = layers.Dense(width, name="noise_dense_2")(ops.silu(h))
    if "pooled" in inputs:
        p = inputs["pooled"]
        if noise.pooled_dense:
            p = layers.Dense(width, name="pooled_dense_1")(p)
            p = layers.Dense(width, name="pooled_dense_2")(ops.silu(p))
        h = h + p
    return h


def _attention(attention: bool | tuple[bool, ...], channels: tuple[int, ...]) -> tuple[bool, ...]:
    if isinstance(attention, bool):
        return (attention,) * len(channels)
    if len(channels) != len(attention):
        raise ValueError(
            "`attention` must have one entry per level of `channels`. "
            f"Received: channels={channels}, attention={attention}."
        )
    return tuple(attention)


def _heads(channels: tuple[int, ...], widths: tuple[int, ...]) -> tuple[int, ...]:
    for channel, width in zip(channels, widths):
        if channel % width:
            raise ValueError(
                "`head_width` must divide the channels of its level. "
                f"Received: channels={channels}, head_width={widths}."
            )
    return tuple(channel // width for channel, width in zip(channels, widths))
