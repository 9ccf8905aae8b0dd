"""Published U-Nets: construction from their configurations, and a table of their modules.

UNet2DConditionModel   U-Net of Stable Diffusion    kgen.networks.UNet
UNet2DModel            U-Net of DDPM                kgen.networks.UNet(transformers=False)
"""

from collections.abc import Callable
from typing import Any

import keras

from kgen.networks import UNet
from kgen.published.blocks import (
    attention_modules,
    picture_size,
    residual_modules,
    transformer_modules,
)
from kgen.published.configs import by_level
from kgen.published.modules import Module, check_shape
from kgen.published.weights import Arrays


def build_unet(
    config: dict,
    source: object,
    *,
    noise_index: Callable,
    size: tuple[int, int] | None = None,
    length: int = 77,
    **kwargs: Any,
) -> UNet:
    """Builds a U-Net of either kind with random weights.

    Args:
        config: a complete configuration of `kgen.published.configs.read_config`.
        source: the file of the configuration, for messages.
        noise_index: a function from the log-SNR to the timestep index that the network receives.
        size: `(height, width)` of the input; None for that of the configuration.
        length: number of text tokens.
        **kwargs: `name` and `dtype` of a Keras model.

    Returns:
        A `kgen.networks.UNet`.
    """
    conditional = "cross_attention_dim" in config
    options = {
        "channels": tuple(config["block_out_channels"]),
        "attention": tuple(_attends(config)),
        "halving": "both" if config["downsample_padding"] == 1 else "after",
        "groups": config["norm_num_groups"],
        "epsilon": config["norm_eps"],
        "dropout": config["dropout"],
        "sin_first": not config["flip_sin_to_cos"],
        "freq_shift": float(config["freq_shift"]),
        "noise_position": noise_index,
    }
    if conditional:
        # In spite of its name, "attention_head_dim" is the number of heads, unless that is given.
        heads = (
            "attention_head_dim" if config["num_attention_heads"] is None else "num_attention_heads"
        )
        options |= {
            "blocks": by_level(config, "layers_per_block", source)[0],
            "heads": tuple(by_level(config, heads, source)),
            "depth": tuple(by_level(config, "transformer_layers_per_block", source)),
            "tokens": (length, by_level(config, "cross_attention_dim", source)[0]),
        }
        if config["addition_embed_type"] is not None:
            options["pooled"] = config["projection_class_embeddings_input_dim"]
    else:
        options |= {
            "blocks": config["layers_per_block"],
            "transformers": False,
            "attention_bias": True,
        }
        if config["attention_head_dim"] is None:
            options["heads"] = 1
        else:
            options["head_width"] = config["attention_head_dim"]
        if config["num_class_embeds"] is not None:
            options |= {"pooled": 4 * config["block_out_channels"][0], "pooled_dense": False}
    shape = (*picture_size(config, size), config["in_channels"])
    return UNet(shape, **options, **kwargs)


def check_unet_sizes(config: dict, weights: Arrays, source: object) -> None:
    """Compares the sizes in a configuration with the weights, before memory is allocated.

    Args:
        config: a complete configuration.
        weights: the published arrays.
        source: the file of the configuration, for messages.

    Raises:
        ValueError: if the weights are those of a smaller or larger network.
    """
    channels = config["block_out_channels"]
    conditional = "cross_attention_dim" in config
    shapes = {"conv_in.weight": (channels[0], config["in_channels"], 3, 3)}
    blocks = by_level(config, "layers_per_block", source)
    for level, width in enumerate(channels):
        before = f"down_blocks.{level}"
        shapes[f"{before}.resnets.{blocks[level] - 1}.conv2.weight"] = (width, width, 3, 3)
        if not _attends(config)[level]:
            continue
        attention = f"{before}.attentions.{blocks[level] - 1}"
        if conditional:
            depth = by_level(config, "transformer_layers_per_block", source)[level]
            tokens = by_level(config, "cross_attention_dim", source)[level]
            last = f"{attention}.transformer_blocks.{depth - 1}"
            shapes[f"{last}.attn2.to_k.weight"] = (width, tokens)
    if conditional and config["addition_embed_type"] is not None:
        pooled = config["projection_class_embeddings_input_dim"]
        shapes["add_embedding.linear_1.weight"] = (4 * channels[0], pooled)
    if config.get("num_class_embeds") is not None:
        shapes["class_embedding.weight"] = (config["num_class_embeds"], 4 * channels[0])
    for name, shape in shapes.items():
        check_shape(weights, name, shape)


def unet_modules(
    network: UNet, config: dict, source: object, labels: keras.layers.Layer | None = None
) -> dict[str, Module]:
    """Returns the modules of a U-Net by their published names.

    Args:
        network: the network.
        config: its complete configuration.
        source: the file of the configuration, for messages.
        labels: None, or the layer with the `embeddings` of classes.
    """
    get = network.graph.get_layer
    conditional = "cross_attention_dim" in config
    levels = len(config["block_out_channels"])
    blocks = by_level(config, "layers_per_block", source)
    attends = _attends(config)
    modules = {
        "conv_in": Module(get("conv_in"), "convolution"),
        "time_embedding.linear_1": Module(get("noise_dense_1")),
        "time_embedding.linear_2": Module(get("noise_dense_2")),
        "conv_norm_out": Module(get("norm_out"), "norm"),
        "conv_out": Module(get("conv_out"), "convolution"),
    }
    if conditional and config["addition_embed_type"] is not None:
        modules["add_embedding.linear_1"] = Module(get("pooled_dense_1"))
        modules["add_embedding.linear_2"] = Module(get("pooled_dense_2"))
    if labels is not None:
        modules["class_embedding"] = Module(labels, "embedding")

    def attention(ours: str, name: str, level: int) -> None:
        if not conditional:
            modules[f"{name}.group_norm"] = Module(get(f"{ours}_norm"), "norm")
            modules.update(attention_modules(get(ours), name))
            return
        depth = by_level(config, "transformer_layers_per_block", source)[level]
        modules.update(transformer_modules(get, ours, name, depth, config["use_linear_projection"]))

    for level in range(levels):
        up = levels - 1 - level
        for i in range(blocks[level]):
            modules |= residual_modules(
                get, f"down_{level}_{i}_res", f"down_blocks.{level}.resnets.{i}"
            )
            if attends[level]:
                attention(f"down_{level}_{i}_attn", f"down_blocks.{level}.attentions.{i}", level)
        for i in range(blocks[level] + 1):
            modules |= residual_modules(get, f"up_{level}_{i}_res", f"up_blocks.{up}.resnets.{i}")
            if attends[level]:
                attention(f"up_{level}_{i}_attn", f"up_blocks.{up}.attentions.{i}", level)
        if level < levels - 1:
            name = f"down_blocks.{level}.downsamplers.0.conv"
            modules[name] = Module(get(f"down_{level}_downsample"), "convolution")
        if level > 0:
            name = f"up_blocks.{up}.upsamplers.0.conv"
            modules[name] = Module(get(f"up_{level}_upsample"), "convolution")
    for i in range(2):
        modules |= residual_modules(get, f"mid_{i}_res", f"mid_block.resnets.{i}")
    attention("mid_attn", "mid_block.attentions.0", levels - 1)
    return modules


def _attends(config: dict[str, Any]) -> list[bool]:
    """Returns whether each level of a U-Net has attention."""
    return [name.startswith(("CrossAttn", "Attn")) for name in config["down_block_types"]]
