"""Description of models of kgen by published configurations, for export.

    LatentDiffusion(KLAutoencoder, UNet, CLIPText of one encoder)      StableDiffusionPipeline
    DiffusionModel(UNet(transformers=False), no conditioner)           DDPMPipeline

The networks of kgen have the published blocks in the published order, but additional options. An
option without a published counterpart raises an error that names it. These differences are
expressed by the weights:

    latents standardised per channel by the mean m and the standard deviation s
        quant_conv        (mean - m) / s,  log variance - 2 log s
        post_quant_conv   s z + m
        scaling_factor    1
    attention without biases            biases of zero
    an encoder that returns log std     rows of the log variance doubled

The scheduler is DDIM with the noise schedule of the model and the published timesteps.
"""

from typing import Any

import keras
import numpy as np

from kgen.conditioning import Conditioner
from kgen.conditioning.clip_text import CLIPText
from kgen.diffusion.discrete_beta import DiscreteBeta, LevelIndex
from kgen.models.diffusion_model import DiffusionModel
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.models.latent_diffusion import LatentDiffusion
from kgen.networks import UNet
from kgen.networks.levels import by_level
from kgen.networks.norm import GroupNorm
from kgen.published.autoencoder import autoencoder_modules
from kgen.published.modules import slots_of, write_slots
from kgen.published.origin import Published
from kgen.serialization import constructor_arguments

PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}
BETAS = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos": "squaredcos_cap_v2"}
VERSION = "0.30.0"  # of diffusers, an entry of configurations


def describe(model: LatentDiffusion | DiffusionModel) -> Published:
    """Returns the published configurations of a model of kgen.

    Args:
        model: a `LatentDiffusion` or a `DiffusionModel`.

    Returns:
        A `Published`.

    Raises:
        TypeError: if the model is of another class.
        ValueError: if a part has no published counterpart; the message lists all reasons.
    """
    if not isinstance(model, (LatentDiffusion, DiffusionModel)):
        raise TypeError(
            "`model` must be a LatentDiffusion or a DiffusionModel. "
            f"Received: a {type(model).__name__}."
        )
    latent, unsupported = isinstance(model, LatentDiffusion), []
    configs = {
        "scheduler": _scheduler(model, unsupported),
        "unet": _unet(model, latent, unsupported),
    }
    if latent:
        configs["vae"] = _autoencoder(model.autoencoder, unsupported)
        configs["text_encoder"] = _text(model.conditioner, unsupported)
    elif model.conditioner is not None:
        unsupported.append(f"a {type(model.conditioner).__name__} as its conditioner")
    if unsupported:
        raise ValueError(
            "`model` must have been opened by `from_diffusers`, or consist of parts with published "
            f"counterparts. Received: a model with {'; '.join(unsupported)}."
        )
    pipeline = "StableDiffusionPipeline" if latent else "DDPMPipeline"
    index = {"_class_name": pipeline, "_diffusers_version": VERSION}
    index |= {"scheduler": ["diffusers", "DDIMScheduler"]}
    index["unet"] = ["diffusers", configs["unet"]["_class_name"]]
    if latent:
        index |= {
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
        }
    return Published(pipeline, {"model_index": index, **configs})


def autoencoder_arrays(autoencoder: KLAutoencoder, config: dict, dtype: str | None = None) -> dict:
    """Returns the published arrays of an autoencoder of kgen, with its standardisation of latents.

    Args:
        autoencoder: a `KLAutoencoder`.
        config: its configuration, see `describe`.
        dtype: dtype of the arrays, or None for that of the variables.
    """
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    arrays = write_slots(slots_of(autoencoder_modules(encoder, decoder, config)))
    for name in [n for n in arrays if n.endswith((".to_q.weight", ".to_k.weight", ".to_v.weight"))]:
        bias = name.removesuffix("weight") + "bias"
        arrays.setdefault(bias, np.zeros(len(arrays[name]), arrays[name].dtype))
    mean, std = (
        np.asarray(v, "float64") for v in (autoencoder.latent_mean, autoencoder.latent_std)
    )
    width = len(mean)
    kernel, bias = _pointwise(encoder, "quant_conv", 2 * width)
    scale = np.concatenate([1 / std, np.full(width, 2.0)])
    shift = np.concatenate([-mean / std, -2 * np.log(std)])
    arrays["quant_conv.weight"] = (scale[:, None] * kernel)[:, :, None, None]
    arrays["quant_conv.bias"] = scale * bias + shift
    kernel, bias = _pointwise(decoder, "post_quant_conv", width)
    arrays["post_quant_conv.weight"] = (kernel * std)[:, :, None, None]
    arrays["post_quant_conv.bias"] = kernel @ mean + bias
    kept = arrays["encoder.conv_in.weight"].dtype
    return {name: np.ascontiguousarray(a, dtype or kept) for name, a in arrays.items()}


def _pointwise(network: keras.Model, name: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the matrix `[out, in]` and the bias of a 1 x 1 convolution, by default identity."""
    if name not in {layer.name for layer in network.layers}:
        return np.eye(width), np.zeros(width)
    layer = network.get_layer(name)
    return np.asarray(layer.kernel, "float64")[0, 0].T, np.asarray(layer.bias, "float64")


def _scheduler(model: LatentDiffusion | DiffusionModel, unsupported: list[str]) -> dict[str, Any]:
    """Returns the configuration of the scheduler; appends unsupported options to a list."""
    schedule = model.process.schedule
    if not isinstance(schedule, DiscreteBeta) or model.process.scaling != "vp":
        unsupported.append(f"the process {model.process!r}, not the schedule DiscreteBeta")
        return {}
    if model.prediction not in PREDICTIONS:
        unsupported.append(f"prediction={model.prediction!r}")
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": VERSION,
        "beta_schedule": BETAS[schedule.kind],
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "num_train_timesteps": schedule.num_levels,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "prediction_type": PREDICTIONS.get(model.prediction),
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
    }


def _unet(
    model: LatentDiffusion | DiffusionModel, latent: bool, unsupported: list[str]
) -> dict[str, Any]:
    """Returns the configuration of the U-Net; appends unsupported options to a list."""
    network = model.network
    if not isinstance(network, UNet):
        unsupported.append(f"a {type(network).__name__} as its network")
        return {}
    options = constructor_arguments(network)
    shape, channels = tuple(options["shape"]), tuple(options["channels"])
    levels = len(channels)
    noise = options["noise_position"]
    takes_index = isinstance(noise, LevelIndex) and noise.schedule == model.process.schedule
    groups = {layer.groups for layer in network.graph.layers if isinstance(layer, GroupNorm)}
    blocks = set(by_level("blocks", options["blocks"], levels))
    requirements = (
        (len(shape) == 3, f"data of shape {shape}, which are not pictures"),
        (takes_index, "a network conditional on the log-SNR, not on `LevelIndex` of its schedule"),
        (len(groups) == 1, f"norms of {sorted(groups)} groups, not of one number"),
        (len(blocks) == 1, f"blocks={options['blocks']}, not one number"),
        (options["patch"] == 1, f"patch={options['patch']}"),
        (options["picture"] is None, "a picture as a condition"),
        (options["middle_attention"], "middle_attention=False"),
        (options["transformers"] == latent, f"transformers={options['transformers']}"),
        (options["attention_bias"] != latent, f"attention_bias={options['attention_bias']}"),
        (options["pooled"] is None, "a pooled condition"),
        (options["freq_shift"] in (0, 1), f"freq_shift={options['freq_shift']}"),
        (options["epsilon"] in ((1e-5,) if latent else (1e-5, 1e-6)), "another `epsilon`"),
    )
    unsupported += [reason for fine, reason in requirements if not fine]
    if len(groups) != 1 or len(blocks) != 1:
        return {}
    attention = options["attention"]
    attends = (attention,) * levels if isinstance(attention, bool) else tuple(attention)
    if options["head_width"] is None:
        heads = by_level("heads", options["heads"], levels)
    else:
        widths = by_level("head_width", options["head_width"], levels)
        heads = tuple(c // w for c, w in zip(channels, widths))
    config = {
        "_diffusers_version": VERSION,
        "in_channels": shape[-1],
        "out_channels": shape[-1],
        "sample_size": _sample_size(shape),
        "block_out_channels": list(channels),
        "layers_per_block": blocks.pop(),
        "norm_num_groups": groups.pop(),
        "norm_eps": options["epsilon"],
        "downsample_padding": 1 if options["halving"] == "both" else 0,
        "flip_sin_to_cos": not options["sin_first"],
        "freq_shift": int(options["freq_shift"]),
        "dropout": options["dropout"],
    }
    name, kind = ("UNet2DConditionModel", "CrossAttn") if latent else ("UNet2DModel", "Attn")
    config |= {
        "_class_name": name,
        "down_block_types": [f"{kind}DownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": [f"{kind}UpBlock2D" if a else "UpBlock2D" for a in attends[::-1]],
    }
    if not latent:
        widths = {c // h for c, h, a in zip(channels, heads, (*attends[:-1], True)) if a}
        if len(widths) > 1:
            unsupported.append(f"heads of the widths {sorted(widths)}, not of one width")
        return {**config, "attention_head_dim": widths.pop()}
    tokens = options["tokens"]
    if tokens is None:
        unsupported.append("a network without cross-attention to tokens")
    depth = by_level("depth", options["depth"], levels)
    return {
        **config,
        "attention_head_dim": list(heads),  # the number of heads, in spite of the name
        "cross_attention_dim": None if tokens is None else tokens[1],
        "transformer_layers_per_block": list(depth) if len(set(depth)) > 1 else depth[0],
        "use_linear_projection": True,
    }


def _autoencoder(autoencoder: KLAutoencoder, unsupported: list[str]) -> dict[str, Any]:
    """Returns the configuration of the autoencoder; appends unsupported options to a list."""
    encoder, decoder = autoencoder.encoder, autoencoder.decoder
    names = {layer.name for network in (encoder, decoder) for layer in network.layers}
    if not {"conv_in", "down_0_res_0_conv1", "up_0_res_0_conv1", "norm_out", "conv_out"} <= names:
        unsupported.append("an autoencoder other than `kgen.networks.conv`'s")
        return {}
    channels, blocks, shape = [], [], tuple(autoencoder.data_shape)
    while f"down_{len(channels)}_res_0_conv1" in names:
        level = len(channels)
        channels.append(encoder.get_layer(f"down_{level}_res_0_conv1").kernel.shape[-1])
        down, up = (
            sum(n.startswith(f"{way}_{level}_res_") and n.endswith("_conv1") for n in names)
            for way in ("down", "up")
        )
        blocks.append(down if up == down + 1 else (down, up))
    norms = [n for part in (encoder, decoder) for n in part.layers if isinstance(n, GroupNorm)]
    groups = {norm.groups for norm in norms}
    factor = 2 ** (len(channels) - 1)
    num_inputs = encoder.get_layer("conv_in").kernel.shape[-2]
    requirements = (
        (len(shape) == 3, f"data of shape {shape}, which are not pictures"),
        (num_inputs == shape[-1], "an autoencoder with patch=2"),
        ("mid_attn" in names, "an autoencoder without attention in the middle"),
        (len(set(blocks)) == 1, f"an autoencoder of {blocks} blocks, not of one number"),
        (len(groups) == 1, f"an autoencoder with norms of {sorted(groups)} groups"),
        ({norm.epsilon for norm in norms} == {1e-6}, "an autoencoder with another `epsilon`"),
        (not any(n % factor for n in shape[:-1]), f"an autoencoder that pads {shape}"),
    )
    reasons = [reason for fine, reason in requirements if not fine]
    unsupported += reasons
    if reasons:
        return {}
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": VERSION,
        "in_channels": shape[-1],
        "out_channels": shape[-1],
        "latent_channels": autoencoder.latent_shape[-1],
        "sample_size": _sample_size(shape),
        "block_out_channels": channels,
        "layers_per_block": blocks[0],
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "norm_num_groups": groups.pop(),
        "act_fn": "silu",
        "scaling_factor": 1.0,
    }


def _text(conditioner: Conditioner | None, unsupported: list[str]) -> dict[str, Any]:
    """Returns the configuration of the text encoder; appends unsupported options to a list."""
    fits = isinstance(conditioner, CLIPText) and len(conditioner.towers) == 1
    if not fits or conditioner.null_kind != "empty" or conditioner.sizes is not None:
        what = "no conditioner" if conditioner is None else f"a {type(conditioner).__name__}"
        unsupported.append(f"{what}, not a CLIPText of one encoder")
        return {}
    tower = conditioner.towers[0]
    options = constructor_arguments(tower)
    if tower.states != "last" or tower.projection is not None:
        unsupported.append("an encoder of penultimate states, or with a projection")
    ids = {token: i for i, token in enumerate(options["vocabulary"])}
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": len(ids),
        "hidden_size": tower.width,
        "intermediate_size": options["hidden"],
        "num_hidden_layers": options["depth"],
        "num_attention_heads": options["heads"],
        "max_position_embeddings": tower.length,
        "hidden_act": options["activation"],
        "layer_norm_eps": 1e-5,
        "bos_token_id": tower.text.tokenizer.start_token_id,
        "eos_token_id": tower.end,
        "pad_token_id": ids[options["pad"]],
    }


def _sample_size(shape: tuple[int, ...]) -> int | list[int]:
    """Returns the option `sample_size`: one number for squares, else height and width."""
    height, width = shape[:2]
    return height if height == width else [height, width]
