"""The U-Net of Stable Diffusion, sizes by arguments.

    conv - [ (residual, transformer) x blocks, halve ] x levels          skips are kept here
         - residual, transformer, residual
         - [ (residual, transformer) x (blocks + 1), double ] x levels   and concatenated here
         - GroupNorm, SiLU - conv

The noise level enters every residual block through an embedding; the text enters twice, as a
sentence vector added to that embedding and as tokens that the transformers attend to.

Data have one axis in space, two or three: `(L, C)`, `(H, W, C)`, `(D, H, W, C)`. A network takes
any size, whichever it was made with; where a size cannot be halved often enough, zeros are put
around the data first and what lies over them is left out of the output.

References:
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, appendix B (`transformers=False`).
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, section 3.3 and appendix E.
  Podell et al. (2023), https://arxiv.org/abs/2307.01952, section 2.1 (pooled text).
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

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


@serializable
class UNet(ConditionalNetwork):
    """U-Net that predicts an image-shaped tensor from a noisy one, its log-SNR and a condition.

    What has "by level" is one value for all levels, or a tuple with one for each.

    Args:
        shape: `(H, W, C)` of the noisy input and of the output, or `(L, C)`, or `(D, H, W, C)`. The
            sizes are those of the data of a model; the network takes others too. None is any.
        channels: channels of each level; one halving between two.
        blocks: residual blocks on the way down, by level; one more on the way up.
        attention: whether residual blocks are followed by attention, by level.
        heads: attention heads, by level.
        head_width: None, or the width of an attention head, by level, in the place of `heads`.
        transformers: whether attention is that of spatial transformers, with a feed-forward layer;
            False is the self-attention alone of DDPM's U-Net, which takes no tokens.
        depth: rounds of attention and feed-forward in a transformer, by level.
        attention_bias: whether queries, keys and values have a bias.
        middle_attention: whether there is attention in the middle.
        tokens: None, or `(L, D)`: length, or None for any, and width of the text tokens.
        pooled: None, or the width of the pooled condition vector.
        pooled_dense: whether the pooled vector passes two dense layers before it is added to the
            embedding of the noise; False adds it as it is, of width `4 * channels[0]`.
        picture: None, or the channels of a picture that is concatenated to the input.
        noise_position: None, or a function from log-SNR `[B]` to the position `[B]` that is
            embedded, such as the index of a noise level; an object of a class that Keras can
            serialise. None is `kgen.networks.noise_position`.
        sin_first: whether the embedding of the position begins with the sines.
        freq_shift: see `kgen.networks.SinusoidalEmbedding`.
        halving: where a halving pads: `"after"` the last pixel of each axis, or `"both"` sides.
        groups: groups of every group normalisation; None chooses them from the channels.
        epsilon: added to the variance in group normalisations; 1e-6 in transformers, always.
        dropout: rate inside the residual blocks.
        patch: side of the square of pixels that is folded into channels first, and unfolded last.
            1 is the published layout; 2 leaves out the costliest level.
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, H, W, C]`.
        log_snr: `[B]`.
        cond: a dictionary with `"tokens"` `[B, L, D]`, `"mask"` `[B, L]`, `"pooled"` `[B, P]` and
            `"picture"` `[B, H, W, Q]`, whichever the network was made for.

    Raises:
        TypeError: if `noise_position` is no function.
        ValueError: if sizes do not fit together.

    Example:
        >>> network = UNet((8, 8, 4), channels=(16, 32), attention=(False, True), heads=2)
        >>> network(ops.zeros((2, 8, 8, 4)), ops.zeros((2,))).shape
        TensorShape([2, 8, 8, 4])
        >>> network(ops.zeros((2, 11, 6, 4)), ops.zeros((2,))).shape
        TensorShape([2, 11, 6, 4])
    """

    def __init__(
        self,
        shape: tuple[int | None, ...],
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
        **kwargs,
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

        def output(inputs):
            z = inputs["z"]
            h = z
            if picture is not None:
                h = layers.Concatenate(dtype="float32")([z, inputs["picture"]])
            h = Pad(patch * 2 ** (count - 1), dtype="float32", name="pad_in")(h)
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

    def residual(self, h, level, name, embedding):
        """A residual block."""
        return residual_block(
            h, self.channels[level], name, embedding, self.epsilon, self.dropout, self.groups
        )

    def attend(self, h, level, name, inputs):
        """Attention, that of transformers or that of DDPM."""
        heads, options = self.heads[level], {"groups": self.groups, "bias": self.attention_bias}
        if not self.transformers:
            return attention_block(h, name, heads, self.epsilon, **options)
        context, mask = inputs.get("tokens"), inputs.get("mask")
        return transformer_block(h, name, heads, context, mask, self.depth[level], **options)


@dataclasses.dataclass(frozen=True)
class _Noise:
    """How the noise and the pooled condition become an embedding."""

    position: Callable | None
    sin_first: bool
    freq_shift: float
    pooled_dense: bool


def _unet(inputs, h, channels_out, embedding, plan):
    def block(h, level, name):
        h = plan.residual(h, level, f"{name}_res", embedding)
        if plan.attention[level]:
            h = plan.attend(h, level, f"{name}_attn", inputs)
        return h

    last = len(plan.channels) - 1
    # In float32: near the data its noise is less than bfloat16 can tell from the value itself.
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
            h = upsample(h, f"up_{level}_upsample")
    h = group_norm(h, "norm_out", plan.epsilon, "silu", groups=plan.groups)
    return conv(h, channels_out, "conv_out", kernel_initializer="zeros", dtype="float32")


def _embed(inputs, width, noise):
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


def _attention(attention, channels):
    if isinstance(attention, bool):
        return (attention,) * len(channels)
    if len(channels) != len(attention):
        raise ValueError(
            "`attention` must have one entry per level of `channels`. "
            f"Received: channels={channels}, attention={attention}."
        )
    return tuple(attention)


def _heads(channels, widths):
    for channel, width in zip(channels, widths):
        if channel % width:
            raise ValueError(
                "`head_width` must divide the channels of its level. "
                f"Received: channels={channels}, head_width={widths}."
            )
    return tuple(channel // width for channel, width in zip(channels, widths))
