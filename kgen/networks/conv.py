"""The encoder and the decoder of the Stable Diffusion autoencoder, with configurable sizes.

    encoder   conv - [residual blocks, halve] x levels - middle - norm, SiLU - conv
    decoder   conv - middle - [residual blocks, double] x levels - norm, SiLU - conv
    middle    residual, attention, residual

With `n` entries in `channels` the code is smaller than the picture by the factor `patch * 2^(n -
1)` along each axis. `patch = 1` is the published layout; `patch = 2` first folds 2 x 2 pixels into
channels (and unfolds them at the end), which omits the most expensive level and trains about three
times faster on CPUs. A size that is not divisible by the factor is padded with zeros on both sides;
the decoder crops the padding if its argument `size` is the size of the picture.

Data have one, two or three spatial axes: `(L, C)`, `(H, W, C)`, `(D, H, W, C)`.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, appendix G.
  Esser et al. (2021), https://arxiv.org/abs/2012.09841, table 7.
"""

from typing import Any

import keras

from kgen.checks import check_count
from kgen.networks.blocks import (
    attention_block,
    conv,
    downsample,
    group_norm,
    residual_block,
    upsample,
)
from kgen.networks.levels import by_level
from kgen.networks.shapes import CropTo, Pad, fold, unfold
from kgen.types import Shape

EPSILON = 1e-6


def encoder(
    image_shape: Shape,
    latent_channels: int,
    *,
    channels: tuple[int, ...] = (64, 128, 128),
    blocks: int | tuple[int, ...] = 1,
    patch: int = 1,
    quant: bool = False,
    groups: int | None = None,
    attention_bias: bool = False,
    middle_attention: bool = True,
    epsilon: float = EPSILON,
    name: str = "encoder",
) -> keras.Model:
    """Builds a convolutional encoder, `[B, H, W, C]` to `[B, h, w, 2 latent_channels]`.

    The output is the mean and the log standard deviation of the code.

    Args:
        image_shape: `(H, W, C)`, `(L, C)` or `(D, H, W, C)`; None for a size that varies.
        latent_channels: number of channels of the code.
        channels: number of channels at each level, from the full resolution down; the sizes are
            halved between two levels.
        blocks: number of residual blocks per level, one number or a tuple.
        patch: side of the squares of pixels that are folded into channels first.
        quant: whether the last layer is a 1 x 1 convolution of the moments, as in published
            weights.
        groups: number of groups in group normalisations; None for the rule of `group_norm`.
        attention_bias: whether queries, keys and values of the attention have a bias.
        middle_attention: whether there is attention at the lowest resolution.
        epsilon: added to the variance in group normalisations.
        name: name of the model.

    Returns:
        A `keras.Model`; `kgen.networks.resized` adapts it to another size.

    Example:
        >>> encoder((16, 16, 3), 4, channels=(8, 16)).output_shape
        (None, 8, 8, 8)
    """
    check_count("patch", patch)
    count, options = len(channels), {"epsilon": epsilon, "groups": groups}
    inputs = keras.Input(image_shape, name="x")
    x = fold(Pad(patch * 2 ** (count - 1), dtype="float32", name="pad_in")(inputs), patch)
    h = conv(x, channels[0], "conv_in")
    for level, repeats in enumerate(by_level("blocks", blocks, count)):
        for block in range(repeats):
            h = residual_block(h, channels[level], f"down_{level}_res_{block}", **options)
        if level < count - 1:
            h = downsample(h, f"down_{level}_downsample")
    h = _middle(h, middle_attention, attention_bias, options)
    h = group_norm(h, "norm_out", activation="silu", **options)
    moments = conv(h, 2 * latent_channels, "conv_out", dtype="float32")
    if quant:
        moments = conv(moments, 2 * latent_channels, "quant_conv", kernel=1, dtype="float32")
    return keras.Model(inputs, moments, name=name)


def decoder(
    latent_shape: Shape,
    image_channels: int = 3,
    *,
    channels: tuple[int, ...] = (64, 128, 128),
    blocks: int | tuple[int, ...] = 1,
    patch: int = 1,
    size: tuple[int, ...] | None = None,
    post_quant: bool = False,
    groups: int | None = None,
    attention_bias: bool = False,
    middle_attention: bool = True,
    epsilon: float = EPSILON,
    name: str = "decoder",
) -> keras.Model:
    """Builds a convolutional decoder, `[B, h, w, c]` to `[B, H, W, image_channels]`.

    Args:
        latent_shape: `(h, w, c)`, `(l, c)` or `(d, h, w, c)`; None for a size that varies.
        image_channels: number of channels of the picture.
        channels: number of channels at each level, in the order of `encoder`.
        blocks: number of residual blocks per level of the encoder; the decoder has one more.
        patch: see `encoder`.
        size: None, or the size `(H, W)` of the picture, to which the output is cropped if the
            encoder pads the picture.
        post_quant: whether the first layer is a 1 x 1 convolution of the code, as in published
            weights.
        groups: number of groups in group normalisations; None for the rule of `group_norm`.
        attention_bias: whether queries, keys and values of the attention have a bias.
        middle_attention: whether there is attention at the lowest resolution.
        epsilon: added to the variance in group normalisations.
        name: name of the model.

    Returns:
        A `keras.Model`; `kgen.networks.resized` adapts it to another size.

    Raises:
        ValueError: if pictures of the size `size` have codes of another shape than `latent_shape`.

    Example:
        >>> decoder((8, 8, 4), channels=(8, 16)).output_shape
        (None, 16, 16, 3)
        >>> decoder((8, 8, 4), channels=(8, 16), size=(15, 16)).output_shape
        (None, 15, 16, 3)
    """
    check_count("patch", patch)
    count, options = len(channels), {"epsilon": epsilon, "groups": groups}
    _check_size(size, latent_shape, patch * 2 ** (count - 1))
    z = inputs = keras.Input(latent_shape, name="z")
    if post_quant:
        z = conv(z, latent_shape[-1], "post_quant_conv", kernel=1)
    h = _middle(conv(z, channels[-1], "conv_in"), middle_attention, attention_bias, options)
    for level, repeats in reversed(list(enumerate(by_level("blocks", blocks, count)))):
        for block in range(repeats + 1):
            h = residual_block(h, channels[level], f"up_{level}_res_{block}", **options)
        if level > 0:
            h = upsample(h, f"up_{level}_upsample")
    h = group_norm(h, "norm_out", activation="silu", **options)
    width = image_channels * patch ** (len(latent_shape) - 1)
    image = unfold(conv(h, width, "conv_out", dtype="float32"), patch)
    if size is not None and tuple(size) != image.shape[1:-1]:
        image = CropTo(size, dtype="float32", name="crop_out")(image)
    return keras.Model(inputs, image, name=name)


def _middle(
    h: keras.KerasTensor, attention: bool, bias: bool, options: dict[str, Any]
) -> keras.KerasTensor:
    width = h.shape[-1]
    h = residual_block(h, width, "mid_res_0", **options)
    if attention:
        h = attention_block(h, "mid_attn", bias=bias, **options)
    return residual_block(h, width, "mid_res_1", **options)


def _check_size(size: tuple[int, ...] | None, latent_shape: Shape, multiple: int) -> None:
    if size is None:
        return
    code = tuple(latent_shape[:-1])
    if len(size) != len(code) or any(c and -(-n // multiple) != c for n, c in zip(size, code)):
        raise ValueError(
            f"`size` must be that of a picture whose code has the size {code}, {multiple} times "
            f"smaller. Received: size={size}."
        )
