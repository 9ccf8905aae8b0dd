"""Published autoencoders: construction from their configurations, and a table of their weights.

A published encoder returns a log variance, an encoder of kgen a log standard deviation, which is
half of it. The corresponding rows of the last 1 x 1 convolution are multiplied by 1/2.
"""

import keras
import numpy as np

from kgen.networks.conv import decoder as build_decoder
from kgen.networks.conv import encoder as build_encoder
from kgen.published.blocks import Added, attention_modules, picture_size, residual_modules
from kgen.published.modules import Module, Slot, check_shape, slots_of
from kgen.published.weights import Arrays


def build_autoencoder(
    config: dict, source: object, *, size: tuple[int, int] | None = None, dtype: str | None = None
) -> tuple[keras.Model, keras.Model]:
    """Builds the encoder and the decoder of an `AutoencoderKL`, with random weights.

    Args:
        config: a complete configuration.
        source: the file of the configuration, for messages.
        size: `(height, width)` of a picture in pixels; None for that of the configuration.
        dtype: None or a Keras dtype policy.

    Returns:
        The encoder and the decoder.

    Raises:
        ValueError: if the size is not divisible by the downsampling factor.
    """
    channels = tuple(config["block_out_channels"])
    factor = 2 ** (len(channels) - 1)
    height, width = picture_size(config, size)
    if height % factor or width % factor:
        raise ValueError(f"`size` must be divisible by {factor}. Received: size={(height, width)}.")
    options = {
        "channels": channels,
        "blocks": config["layers_per_block"],
        "groups": config["norm_num_groups"],
        "attention_bias": True,
    }
    latent = (height // factor, width // factor, config["latent_channels"])
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype or previous)
    try:
        encoder = build_encoder(
            (height, width, config["in_channels"]),
            config["latent_channels"],
            quant=True,
            **options,
        )
        decoder = build_decoder(
            latent,
            config["out_channels"],
            post_quant=config["use_post_quant_conv"],
            **options,
        )
    finally:
        keras.config.set_dtype_policy(previous)
    return encoder, decoder


def check_autoencoder_sizes(config: dict, weights: Arrays, source: object) -> None:
    """Compares the sizes in a configuration with the weights, before memory is allocated.

    Args:
        config: a complete configuration.
        weights: the published arrays.
        source: the file of the configuration, for messages.

    Raises:
        ValueError: if the weights are those of a smaller or larger network.
    """
    channels, blocks = config["block_out_channels"], config["layers_per_block"]
    check_shape(weights, "encoder.conv_in.weight", (channels[0], config["in_channels"], 3, 3))
    check_shape(
        weights, "encoder.conv_out.weight", (2 * config["latent_channels"], channels[-1], 3, 3)
    )
    for level, width in enumerate(channels):
        name = f"encoder.down_blocks.{level}.resnets.{blocks - 1}.conv2.weight"
        check_shape(weights, name, (width, width, 3, 3))


def autoencoder_slots(encoder: keras.Model, decoder: keras.Model, config: dict) -> list[Slot]:
    """Returns the variables of an autoencoder with their published arrays.

    Args:
        encoder: the encoder.
        decoder: the decoder.
        config: the complete configuration.
    """
    modules = autoencoder_modules(encoder, decoder, config)
    if config["use_post_quant_conv"]:
        modules["post_quant_conv"] = Module(decoder.get_layer("post_quant_conv"), "convolution")
    quant = slots_of({"quant_conv": Module(encoder.get_layer("quant_conv"), "convolution")})
    return [*slots_of(modules), *map(_halved, quant)]


def autoencoder_modules(
    encoder: keras.Model, decoder: keras.Model, config: dict
) -> dict[str, Module]:
    """Returns the modules of an autoencoder by their published names.

    The 1 x 1 convolutions of the code, `quant_conv` and `post_quant_conv`, are not among them.

    Args:
        encoder: the encoder.
        decoder: the decoder.
        config: the complete configuration.
    """
    channels, blocks = config["block_out_channels"], config["layers_per_block"]
    last = len(channels) - 1
    modules = {}

    def shared(network: keras.Model, name: str) -> None:
        get = network.get_layer
        modules[f"{name}.conv_in"] = Module(get("conv_in"), "convolution")
        modules[f"{name}.conv_norm_out"] = Module(get("norm_out"), "norm")
        modules[f"{name}.conv_out"] = Module(get("conv_out"), "convolution")
        for i in range(2):
            modules.update(residual_modules(get, f"mid_res_{i}", f"{name}.mid_block.resnets.{i}"))
        middle = f"{name}.mid_block.attentions.0"
        modules[f"{middle}.group_norm"] = Module(get("mid_attn_norm"), "norm")
        modules.update(attention_modules(get("mid_attn"), middle))

    shared(encoder, "encoder")
    shared(decoder, "decoder")
    for level in range(last + 1):
        for i in range(blocks):
            name = f"encoder.down_blocks.{level}.resnets.{i}"
            modules |= residual_modules(encoder.get_layer, f"down_{level}_res_{i}", name)
        for i in range(blocks + 1):
            name = f"decoder.up_blocks.{last - level}.resnets.{i}"
            modules |= residual_modules(decoder.get_layer, f"up_{level}_res_{i}", name)
        if level < last:
            layer = encoder.get_layer(f"down_{level}_downsample")
            modules[f"encoder.down_blocks.{level}.downsamplers.0.conv"] = Module(
                layer, "convolution"
            )
        if level > 0:
            layer = decoder.get_layer(f"up_{level}_upsample")
            name = f"decoder.up_blocks.{last - level}.upsamplers.0.conv"
            modules[name] = Module(layer, "convolution")
    return modules


def without_quant(weights: Arrays, config: dict) -> Arrays:
    """Adds a `quant_conv` that is the identity to the weights of an autoencoder without one.

    Args:
        weights: the published arrays.
        config: the complete configuration.
    """
    if config["use_quant_conv"]:
        return weights
    width = 2 * config["latent_channels"]
    eye = np.eye(width, dtype="float32")[:, :, None, None]
    return Added(weights, {"quant_conv.weight": eye, "quant_conv.bias": np.zeros(width, "float32")})


def _halved(slot: Slot) -> Slot:
    """Halves the second half of the outputs of a slot: a log variance becomes a log std."""
    half = slot.variable.shape[-1] // 2

    def scaled(value: np.ndarray, factor: float, axis: int) -> np.ndarray:
        value = np.array(value, copy=True)
        rows = [slice(None)] * value.ndim
        rows[axis] = slice(half, None)
        value[tuple(rows)] *= factor
        return value

    return Slot(
        slot.names,
        slot.shapes,
        slot.variable,
        lambda value: scaled(slot.to_ours(value), 0.5, -1),
        lambda value: [scaled(array, 2, 0) for array in slot.to_published(value)],
    )
