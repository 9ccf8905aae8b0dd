"""Validation of the configurations of published networks.

Some options of a configuration are sizes, which kgen supports. Others select kinds of layers, of
which kgen has those of Stable Diffusion. Other values raise an error that names the option, and so
do unknown options, unless they are null or false: with a slightly different network the pictures
would be wrong without any error.

A rule consists of a default value for configurations without the option, and a check of the value.

Reference:
  The options: https://huggingface.co/docs/diffusers/api/models/unet2d-cond (and unet2d,
  autoencoderkl); https://huggingface.co/docs/transformers/model_doc/clip#transformers.CLIPTextConfig.
"""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

MAX_COUNT = 2**20  # larger than any width, length or vocabulary
MAX_LEVELS = 16


@dataclasses.dataclass(frozen=True)
class Rule:
    """The allowed values of an option.

    Args:
        default: the value for configurations without the option.
        valid: a function of a value that returns whether it is allowed.
        meaning: a description of the allowed values, for messages.
    """

    default: object
    valid: Callable[[Any], bool]
    meaning: str


def _count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= MAX_COUNT


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= MAX_LEVELS and all(map(_count, value))


def count(default: Any) -> Rule:
    """Returns the rule of an integer of at least 1."""
    return Rule(default, _count, f"an integer from 1 to {MAX_COUNT}")


def count_or_none(default: Any = None) -> Rule:
    """Returns the rule of an integer of at least 1, or null."""
    return Rule(default, lambda v: v is None or _count(v), "an integer of at least 1, or null")


def counts(default: Any) -> Rule:
    """Returns the rule of a list of integers of at least 1."""
    return Rule(default, _counts, f"a list of 1 to {MAX_LEVELS} integers of at least 1")


def count_or_counts(default: Any) -> Rule:
    """Returns the rule of an integer of at least 1, or a list of one per level of the network."""
    return Rule(
        default,
        lambda v: _count(v) or _counts(v) or (v is None and default is None),
        "an integer of at least 1, or a list of them",
    )


def number(default: Any) -> Rule:
    """Returns the rule of a finite number."""
    return Rule(default, _number, "a finite number")


def flag(default: Any) -> Rule:
    """Returns the rule of true or false."""
    return Rule(default, lambda v: isinstance(v, bool), "true or false")


def only(*values: Any) -> Rule:
    """Returns the rule of one of the given values, of which the first is the default."""
    names = " or ".join(repr(v) for v in values)
    # Types are compared too, since 1 == True.
    return Rule(values[0], lambda v: any(v == w and type(v) is type(w) for w in values), f"{names}")


def names(default: Any, allowed: Collection[str]) -> Rule:
    """Returns the rule of a list of names of blocks, from a set of allowed ones."""
    return Rule(
        default,
        lambda v: (
            isinstance(v, list)
            and 1 <= len(v) <= MAX_LEVELS
            and all(isinstance(n, str) and n in allowed for n in v)
        ),
        f"a list of {', '.join(sorted(allowed))}",
    )


ANY = Rule(None, lambda v: True, "anything")  # of an option without effect on the output
ACTIVATION = only("silu", "swish")

UNET_CONDITION = {
    "in_channels": count(4),
    "out_channels": count(4),
    "sample_size": Rule(
        None,
        lambda v: v is None or _count(v) or (_counts(v) and len(v) == 2),
        "an integer, or two",
    ),
    "block_out_channels": counts([320, 640, 1280, 1280]),
    "layers_per_block": count_or_counts(2),
    "down_block_types": names(
        ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], {"CrossAttnDownBlock2D", "DownBlock2D"}
    ),
    "up_block_types": names(
        ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, {"CrossAttnUpBlock2D", "UpBlock2D"}
    ),
    "mid_block_type": only("UNetMidBlock2DCrossAttn"),
    "attention_head_dim": count_or_counts(8),
    "num_attention_heads": count_or_counts(None),
    "cross_attention_dim": count_or_counts(1280),
    "transformer_layers_per_block": count_or_counts(1),
    "use_linear_projection": flag(False),
    "norm_num_groups": count(32),
    "norm_eps": only(1e-5),
    "flip_sin_to_cos": flag(True),
    "freq_shift": only(0, 1),
    "act_fn": ACTIVATION,
    "downsample_padding": only(1, 0),
    "addition_embed_type": only(None, "text_time"),
    "addition_time_embed_dim": count_or_none(),
    "projection_class_embeddings_input_dim": count_or_none(),
    "addition_embed_type_num_heads": ANY,  # used only with "text", which is not allowed
    "upcast_attention": ANY,  # kgen always computes the scores in float32
    "dropout": number(0.0),
    "attention_type": only("default"),
    "center_input_sample": only(False),
    "class_embed_type": only(None),
    "class_embeddings_concat": only(False),
    "conv_in_kernel": only(3),
    "conv_out_kernel": only(3),
    "cross_attention_norm": only(None),
    "dual_cross_attention": only(False),
    "encoder_hid_dim": only(None),
    "encoder_hid_dim_type": only(None),
    "mid_block_only_cross_attention": only(None, False),
    "mid_block_scale_factor": only(1, 1.0),
    "num_class_embeds": only(None),
    "only_cross_attention": only(False),
    "resnet_out_scale_factor": only(1.0, 1),
    "resnet_skip_time_act": only(False),
    "resnet_time_scale_shift": only("default"),
    "reverse_transformer_layers_per_block": only(None),
    "time_cond_proj_dim": only(None),
    "time_embedding_act_fn": only(None),
    "time_embedding_dim": only(None),
    "time_embedding_type": only("positional"),
    "timestep_post_act": only(None),
}

UNET = {
    "in_channels": count(3),
    "out_channels": count(3),
    "sample_size": UNET_CONDITION["sample_size"],
    "block_out_channels": counts([224, 448, 672, 896]),
    "layers_per_block": count(2),
    "down_block_types": names(
        ["DownBlock2D"] + ["AttnDownBlock2D"] * 3, {"AttnDownBlock2D", "DownBlock2D"}
    ),
    "up_block_types": names(["AttnUpBlock2D"] * 3 + ["UpBlock2D"], {"AttnUpBlock2D", "UpBlock2D"}),
    "mid_block_type": only("UNetMidBlock2D"),
    "attention_head_dim": count_or_none(8),
    "norm_num_groups": count(32),
    "norm_eps": only(1e-5, 1e-6),
    "flip_sin_to_cos": flag(True),
    "freq_shift": only(0, 1),
    "act_fn": ACTIVATION,
    "downsample_padding": only(1, 0),
    "num_class_embeds": count_or_none(),
    "class_embed_type": only(None),
    "add_attention": only(True),
    "attn_norm_num_groups": only(None),
    "center_input_sample": only(False),
    "downsample_type": only("conv"),
    "dropout": number(0.0),
    "mid_block_scale_factor": only(1, 1.0),
    "num_train_timesteps": ANY,
    "resnet_time_scale_shift": only("default"),
    "time_embedding_dim": only(None),
    "time_embedding_type": only("positional"),
    "upsample_type": only("conv"),
}

AUTOENCODER = {
    "in_channels": count(3),
    "out_channels": count(3),
    "latent_channels": count(4),
    "sample_size": UNET_CONDITION["sample_size"],
    "block_out_channels": counts([64]),
    "layers_per_block": count(1),
    "down_block_types": names(["DownEncoderBlock2D"], {"DownEncoderBlock2D"}),
    "up_block_types": names(["UpDecoderBlock2D"], {"UpDecoderBlock2D"}),
    "norm_num_groups": count(32),
    "act_fn": ACTIVATION,
    "scaling_factor": number(0.18215),
    "shift_factor": Rule(None, lambda v: v is None or _number(v), "a number or null"),
    "latents_mean": only(None),
    "latents_std": only(None),
    "use_quant_conv": flag(True),
    "use_post_quant_conv": flag(True),
    "mid_block_add_attention": only(True),
    "force_upcast": ANY,  # a hint for half precision
}

# Configurations of transformers contain dozens of options that do not describe the network; only
# the following are read.
CLIP_TEXT = {
    "vocab_size": count(49408),
    "hidden_size": count(512),
    "intermediate_size": count(2048),
    "projection_dim": count_or_none(512),
    "num_hidden_layers": count(12),
    "num_attention_heads": count(8),
    "max_position_embeddings": count(77),
    "hidden_act": only("quick_gelu", "gelu"),
    "layer_norm_eps": only(1e-5),
    "model_type": only("clip_text_model"),
}

RULES = {
    "UNet2DConditionModel": UNET_CONDITION,
    "UNet2DModel": UNET,
    "AutoencoderKL": AUTOENCODER,
    "CLIPTextModel": CLIP_TEXT,
    "CLIPTextModelWithProjection": CLIP_TEXT,
}
OPEN = ("CLIPTextModel", "CLIPTextModelWithProjection")


def read_config(config: dict, expected: str, source: object) -> dict:
    """Validates a configuration, and adds the default values of missing options.

    Args:
        config: the content of `config.json`.
        expected: the class of the network, a key of `RULES`.
        source: the file, for messages.

    Returns:
        A dictionary with every option of the class.

    Raises:
        ValueError: if the configuration is of another class, or kgen does not support the value of
            an option.

    Example:
        >>> read_config({"_class_name": "AutoencoderKL"}, "AutoencoderKL", "vae")["latent_channels"]
        4
    """
    received = config.get("_class_name") or (config.get("architectures") or [None])[0]
    if received != expected:
        raise ValueError(f"{source} must be of a {expected}. Received: {received!r}.")
    rules = RULES[expected]
    for key, value in config.items():
        if key.startswith("_") or (expected in OPEN and key not in rules):
            continue
        if key not in rules:
            if value in (None, False):
                continue
            raise ValueError(
                f"{source} has the option {key!r} with the value {value!s:.80}, which kgen does "
                f"not know for a {expected}."
            )
        rule = rules[key]
        if not rule.valid(value):
            raise ValueError(
                f"{source} must have {rule.meaning} as {key!r}. Received: {value!s:.80}."
            )
    complete = {key: rule.default for key, rule in rules.items()}
    complete |= {key: value for key, value in config.items() if key in rules}
    _CHECKS.get(expected, lambda config, source: None)(complete, source)
    return complete


def by_level(config: dict, key: str, source: object) -> list:
    """Returns an option as a list with one value per level of the network.

    Args:
        config: a configuration with `"block_out_channels"`.
        key: the option, whose value is one for all levels or a list.
        source: the file, for messages.

    Raises:
        ValueError: if a list does not have one entry per level.

    Example:
        >>> by_level({"heads": 8, "block_out_channels": [4, 4]}, "heads", "config.json")
        [8, 8]
    """
    value, levels = config[key], len(config["block_out_channels"])
    if not isinstance(value, list):
        return [value] * levels
    if len(value) != levels:
        raise ValueError(
            f"{source} must have {levels} entries in {key!r}, one for each of "
            f"`block_out_channels`. Received: {value}."
        )
    return value


def _check_unet(config: dict[str, Any], source: object) -> None:
    for key in ("down_block_types", "up_block_types"):
        by_level(config, key, source)
    attends = [name.startswith(("CrossAttn", "Attn")) for name in config["down_block_types"]]
    mirror = [name.startswith(("CrossAttn", "Attn")) for name in config["up_block_types"]][::-1]
    if attends != mirror:
        raise ValueError(
            f"{source} must have `up_block_types` that mirror `down_block_types`. "
            f"Received: {config['up_block_types']}."
        )
    if config["in_channels"] != config["out_channels"]:
        raise ValueError(
            f"{source} must have as many `out_channels` as `in_channels`: networks with a picture "
            f"as an additional input are not supported. Received: {config['in_channels']} and "
            f"{config['out_channels']}."
        )
    for width in config["block_out_channels"]:
        if width % config["norm_num_groups"]:
            raise ValueError(
                f"{source} must have `block_out_channels` divisible by `norm_num_groups`, "
                f"{config['norm_num_groups']}. Received: {config['block_out_channels']}."
            )


def _check_unet_condition(config: dict[str, Any], source: object) -> None:
    _check_unet(config, source)
    for key in ("attention_head_dim", "transformer_layers_per_block", "num_attention_heads"):
        by_level(config, key, source)
    for key in ("layers_per_block", "cross_attention_dim"):
        if len(set(by_level(config, key, source))) > 1:
            raise ValueError(
                f"{source} must have one {key!r} for all levels. Received: {config[key]}."
            )
    added = ("addition_time_embed_dim", "projection_class_embeddings_input_dim")
    if config["addition_embed_type"] == "text_time":
        for key in added:
            if config[key] is None:
                raise ValueError(
                    f"{source} must state {key!r}, since `addition_embed_type` is 'text_time'. "
                    "Received: null."
                )


def _check_autoencoder(config: dict[str, Any], source: object) -> None:
    for key in ("down_block_types", "up_block_types"):
        by_level(config, key, source)
    if not config["scaling_factor"] > 0:
        raise ValueError(
            f"{source} must have a positive `scaling_factor`. Received: {config['scaling_factor']}."
        )


def _check_text(config: dict[str, Any], source: object) -> None:
    if config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError(
            f"{source} must have a `hidden_size` divisible by `num_attention_heads`. "
            f"Received: {config['hidden_size']} and {config['num_attention_heads']}."
        )


_CHECKS = {
    "UNet2DConditionModel": _check_unet_condition,
    "UNet2DModel": _check_unet,
    "AutoencoderKL": _check_autoencoder,
    "CLIPTextModel": _check_text,
    "CLIPTextModelWithProjection": _check_text,
}
