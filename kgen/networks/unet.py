"""The U-Net of Stable Diffusion, sizes by arguments.

    conv - [ (residual, transformer) x blocks, halve ] x levels          skips are kept here
         - residual, transformer, residual
         - [ (residual, transformer) x (blocks + 1), double ] x levels   and concatenated here
         - GroupNorm, SiLU - conv

The noise level enters every residual block through an embedding; the text enters twice, as a
sentence vector added to that embedding and as tokens that the transformers attend to.

References:
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, appendix B (`transformers=False`).
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, section 3.3 and appendix E.
  Podell et al. (2023), https://arxiv.org/abs/2307.01952, section 2.1 (pooled text).
"""

import keras
from keras import layers, ops

from kgen.checks import check_count
from kgen.networks.blocks import (
    attention_block,
    conv,
    downsample,
    dtype_policy,
    fold,
    group_norm,
    network_inputs,
    residual_block,
    transformer_block,
    unfold,
    upsample,
)
from kgen.networks.embeddings import SinusoidalEmbedding, noise_position
from kgen.serialization import serializable


@serializable
class UNet(keras.Model):
    """U-Net that predicts an image-shaped tensor from a noisy one, its log-SNR and a condition.

    Args:
        shape: `(H, W, C)` of the noisy input and of the output.
        channels: channels of each level; one halving between two.
        blocks: residual blocks per level on the way down; one more on the way up.
        attention: for each level, whether its residual blocks are followed by transformers.
        heads: attention heads.
        transformers: whether attention is that of spatial transformers, with a feed-forward layer;
            False is the self-attention alone of DDPM's U-Net, which takes no tokens.
        tokens: None, or `(L, D)`: length and width of the text tokens.
        pooled: None, or the width of the pooled condition vector.
        dropout: rate inside the residual blocks.
        patch: side of the square of pixels that is folded into channels first, and unfolded last.
            1 is the published layout; 2 leaves out the costliest level.
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, H, W, C]`.
        log_snr: `[B]`.
        cond: a dictionary with `"tokens"` `[B, L, D]`, `"mask"` `[B, L]` and `"pooled"` `[B, P]`,
            whichever the network was made for.

    Raises:
        ValueError: if sizes do not fit together.

    Example:
        >>> network = UNet((8, 8, 4), channels=(16, 32), attention=(False, True), heads=2)
        >>> network(ops.zeros((2, 8, 8, 4)), ops.zeros((2,))).shape
        TensorShape([2, 8, 8, 4])
    """

    def __init__(
        self,
        shape,
        *,
        channels=(128, 256),
        blocks=2,
        attention=(True, True),
        heads=4,
        transformers=True,
        tokens=None,
        pooled=None,
        dropout=0.0,
        patch=1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False
        for option, value in (("blocks", blocks), ("heads", heads), ("patch", patch)):
            check_count(option, value)
        if len(channels) != len(attention):
            raise ValueError(
                "`attention` must have one entry per level of `channels`. "
                f"Received: channels={channels}, attention={attention}."
            )
        if tokens is not None and not transformers:
            raise ValueError(
                "`tokens` need `transformers`, whose attention reads them. "
                f"Received: tokens={tokens}, transformers={transformers}."
            )
        factor = patch * 2 ** (len(channels) - 1)
        if shape[0] % factor or shape[1] % factor:
            raise ValueError(
                f"`shape` must be divisible by {factor}: by `patch`, and by 2 for each halving "
                f"between levels. Received: {shape}."
            )
        inputs = {
            "z": keras.Input(shape, name="z"),
            "log_snr": keras.Input((), name="log_snr"),
        }
        if tokens is not None:
            inputs["tokens"] = keras.Input(tokens, name="tokens")
            inputs["mask"] = keras.Input(tokens[:1], dtype="bool", name="mask")
        if pooled is not None:
            inputs["pooled"] = keras.Input((pooled,), name="pooled")
        with dtype_policy(self.dtype_policy):
            h = fold(inputs["z"], patch)
            h = _unet(inputs, h, channels, blocks, attention, heads, transformers, dropout)
            self.graph = keras.Model(inputs, unfold(h, patch), name="graph")
        self.graph.autocast = False
        self.built = True

    @property
    def data_shape(self):
        """Shape of the noisy input, without the batch."""
        return tuple(self.graph.input["z"].shape[1:])

    def call(self, z, log_snr, cond=None, training=False):
        """Runs the network; see the class."""
        inputs = network_inputs(self.graph, z, log_snr, cond)
        return self.graph(inputs, training=training)


def _unet(inputs, h, channels, blocks, attention, heads, transformers, dropout):
    embedding = _embed(inputs, 4 * channels[0])

    def attend(h, name):
        if transformers:
            return transformer_block(h, name, heads, inputs.get("tokens"), inputs.get("mask"))
        return attention_block(h, name, heads, 1e-5)

    def block(h, level, name):
        h = residual_block(h, channels[level], f"{name}_res", embedding=embedding, dropout=dropout)
        if attention[level]:
            h = attend(h, f"{name}_attn")
        return h

    channels_out = h.shape[-1]
    # In float32: near the data its noise is less than bfloat16 can tell from the value itself.
    h = conv(h, channels[0], "conv_in", dtype="float32")
    skips = [h]
    for level in range(len(channels)):
        for i in range(blocks):
            h = block(h, level, f"down_{level}_{i}")
            skips.append(h)
        if level < len(channels) - 1:
            h = downsample(h, f"down_{level}_downsample")
            skips.append(h)
    h = residual_block(h, channels[-1], "mid_0_res", embedding=embedding, dropout=dropout)
    h = attend(h, "mid_attn")
    h = residual_block(h, channels[-1], "mid_1_res", embedding=embedding, dropout=dropout)
    for level in reversed(range(len(channels))):
        for i in range(blocks + 1):
            h = block(ops.concatenate([h, skips.pop()], axis=-1), level, f"up_{level}_{i}")
        if level > 0:
            h = upsample(h, f"up_{level}_upsample")
    h = group_norm(h, "norm_out", activation="silu")
    return layers.Conv2D(
        channels_out,
        3,
        padding="same",
        kernel_initializer="zeros",
        dtype="float32",
        name="conv_out",
    )(h)


def _embed(inputs, width):
    position = noise_position(inputs["log_snr"])
    h = SinusoidalEmbedding(width // 4, name="noise_embedding")(position)
    h = layers.Dense(width, name="noise_dense_1")(h)
    h = layers.Dense(width, name="noise_dense_2")(ops.silu(h))
    if "pooled" in inputs:
        p = layers.Dense(width, name="pooled_dense_1")(inputs["pooled"])
        h = h + layers.Dense(width, name="pooled_dense_2")(ops.silu(p))
    return h
