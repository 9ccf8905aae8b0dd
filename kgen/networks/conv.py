"""The two halves of the Stable Diffusion autoencoder, sizes by arguments.

    encoder   conv - [residual blocks, halve] x levels - middle - norm, SiLU - conv
    decoder   conv - middle - [residual blocks, double] x levels - norm, SiLU - conv
    middle    residual, attention, residual

With `n` entries in `channels` the code is `patch * 2^(n - 1)` times smaller than the picture on
each side. `patch = 1` is the published layout; `patch = 2` first folds 2 x 2 pixels into channels
(and unfolds them at the end), which leaves out the costliest level and trains about three times
faster on CPUs.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, appendix G.
  Esser et al. (2021), https://arxiv.org/abs/2012.09841, table 7.
"""

import keras
from keras import layers

from kgen.networks.blocks import (
    attention_block,
    conv,
    downsample,
    fold,
    group_norm,
    residual_block,
    unfold,
    upsample,
)

EPSILON = 1e-6


def encoder(
    image_shape, latent_channels, *, channels=(64, 128, 128), blocks=1, patch=1, name="encoder"
):
    """Convolutional encoder `[B, H, W, C]` -> `[B, h, w, 2 latent_channels]`: mean and log std.

    Args:
        image_shape: `(H, W, C)`.
        latent_channels: channels of the code.
        channels: channels of each level, from the picture down; one halving between two.
        blocks: residual blocks per level.
        patch: side of the square of pixels that is folded into channels first.
        name: name of the model.

    Returns:
        A `keras.Model`.

    Example:
        >>> encoder((16, 16, 3), 4, channels=(8, 16)).output_shape
        (None, 8, 8, 8)
    """
    x = inputs = keras.Input(image_shape, name="x")
    h = conv(fold(x, patch), channels[0], "conv_in")
    for level, width in enumerate(channels):
        for block in range(blocks):
            h = residual_block(h, width, f"down_{level}_res_{block}", epsilon=EPSILON)
        if level < len(channels) - 1:
            h = downsample(h, f"down_{level}_downsample")
    h = _middle(h)
    h = group_norm(h, "norm_out", EPSILON, "silu")
    moments = layers.Conv2D(
        2 * latent_channels, 3, padding="same", dtype="float32", name="conv_out"
    )
    return keras.Model(inputs, moments(h), name=name)


def decoder(
    latent_shape, image_channels=3, *, channels=(64, 128, 128), blocks=1, patch=1, name="decoder"
):
    """Convolutional decoder `[B, h, w, c]` -> `[B, H, W, image_channels]`, the mirror of `encoder`.

    Args:
        latent_shape: `(h, w, c)`.
        image_channels: channels of the picture.
        channels: channels of each level, in the order of `encoder`.
        blocks: residual blocks per level of the encoder; the decoder has one more.
        patch: as of the encoder.
        name: name of the model.

    Returns:
        A `keras.Model`.

    Example:
        >>> decoder((8, 8, 4), channels=(8, 16)).output_shape
        (None, 16, 16, 3)
    """
    z = inputs = keras.Input(latent_shape, name="z")
    h = _middle(conv(z, channels[-1], "conv_in"))
    for level, width in reversed(list(enumerate(channels))):
        for block in range(blocks + 1):
            h = residual_block(h, width, f"up_{level}_res_{block}", epsilon=EPSILON)
        if level > 0:
            h = upsample(h, f"up_{level}_upsample")
    h = group_norm(h, "norm_out", EPSILON, "silu")
    width = image_channels * patch**2
    image = layers.Conv2D(width, 3, padding="same", dtype="float32", name="conv_out")(h)
    return keras.Model(inputs, unfold(image, patch), name=name)


def _middle(h):
    width = h.shape[-1]
    h = residual_block(h, width, "mid_res_0", epsilon=EPSILON)
    h = attention_block(h, "mid_attn")
    return residual_block(h, width, "mid_res_1", epsilon=EPSILON)
