"""Conversion of the original names of weights, those of single files, to the published names.

    model.diffusion_model.*                      unet
    first_stage_model.*                          vae
    cond_stage_model.transformer.text_model.*    text_encoder of SD 1
    cond_stage_model.model.*                     text_encoder of SD 2, with OpenCLIP's names
    conditioner.embedders.0.transformer.*        text_encoder of SD XL
    conditioner.embedders.1.model.*              text_encoder_2, with OpenCLIP's names

The blocks of the U-Net are numbered consecutively: `input_blocks.N` are the first convolution and
then, for each level, the residual blocks and a downsampling; `output_blocks.N` are the residual
blocks of the way up, of which the last of a level includes the upsampling. OpenCLIP stores the
projections to queries, keys and values in one array. SD 2 was trained on the states before its last
layer, but files contain this layer. Tables of the noise schedule and averaged weights (`model_ema`)
are ignored.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from kgen.published.configs import by_level
from kgen.published.modules import describe
from kgen.published.weights import Arrays, Weights

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
TEXT = {
    "sd1": ["cond_stage_model.transformer."],
    "sd2": ["cond_stage_model.model."],
    "sdxl": ["conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."],
}
IGNORED = ("model_ema.", "cond_stage_model.logit_scale")
UNUSED = ("logit_scale", "text_projection")  # arrays of OpenCLIP that SD 2 does not use

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
MIDDLE_OF_AUTOENCODER = {
    "block_1": "resnets.0",
    "block_2": "resnets.1",
    "attn_1.norm": "attentions.0.group_norm",
    "attn_1.q": "attentions.0.to_q",
    "attn_1.k": "attentions.0.to_k",
    "attn_1.v": "attentions.0.to_v",
    "attn_1.proj_out": "attentions.0.to_out.0",
}
OPEN_CLIP = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


class View(Arrays):
    """Arrays that are computed from those of a file on access.

    Args:
        weights: the arrays of the file.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.paths = weights.paths
        self.entries = {}

    def add(
        self, name: str, source: str, shape: tuple | None = None, change: Callable | None = None
    ) -> None:
        """Adds an array.

        Args:
            name: its name.
            source: the name of the array in the file.
            shape: its shape; None for that in the file.
            change: None, or a function of the array in the file that returns the array.

        Raises:
            ValueError: if there is an array with this name already.
        """
        if name in self.entries:
            raise ValueError(f"{describe(self)} has {name!r} twice, the second time as {source!r}.")
        shape = self.weights.shape(source) if shape is None else shape
        self.entries[name] = (source, tuple(shape), change)

    def __getitem__(self, name: str) -> np.ndarray:
        source, _, change = self.entries[name]
        array = self.weights[source]
        return array if change is None else change(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array without reading it."""
        return self.entries[name][1]

    def close(self) -> None:
        """Closes the file that is mapped into memory."""
        self.weights.close()


def split_parts(weights: Weights, unet: dict, autoencoder: dict, texts: list[dict]) -> list[View]:
    """Splits the arrays of a single file into those of the parts, with their published names.

    Args:
        weights: the arrays of the file.
        unet: the complete configuration of the U-Net.
        autoencoder: the complete configuration of the autoencoder.
        texts: the complete configurations of one or two text encoders, with the additional entry
            `"with_projection"`, whether the pooled vector is used.

    Returns:
        The arrays of the U-Net, of the autoencoder and of each text encoder.

    Raises:
        ValueError: if the file is of another kind, or has arrays with unknown names.
    """
    kind = family(weights)
    if len(TEXT[kind]) != len(texts):
        raise ValueError(
            f"{describe(weights)} must have {len(texts)} text encoders, as its configuration "
            f"says. Received: {len(TEXT[kind])}."
        )
    views = [View(weights) for _ in range(2 + len(texts))]
    readers = [
        (UNET, lambda name: _unet_name(name, unet)),
        (AUTOENCODER, lambda name: _autoencoder_name(name, len(autoencoder["block_out_channels"]))),
        *((prefix, None) for prefix in TEXT[kind]),
    ]
    unknown = []
    for name in weights:
        if "." not in name or name.startswith(IGNORED) or name == "denoiser.sigmas":
            continue
        place = next((i for i, (p, _) in enumerate(readers) if name.startswith(p)), None)
        if place is None:
            unknown.append(name)
            continue
        prefix, rename = readers[place]
        short = name.removeprefix(prefix)
        if rename is not None:
            new = rename(short)
            if new is None:
                unknown.append(name)
            else:
                views[place].add(new, name)
        elif ".transformer." in prefix:
            views[place].add(short, name)
        elif not _add_open_clip(views[place], short, name, texts[place - 2]):
            unknown.append(name)
    if unknown:
        raise ValueError(
            f"{describe(weights)} has {len(unknown)} arrays of unknown names, the first of them "
            f"{unknown[0]!r}."
        )
    return views


def family(weights: Weights) -> str:
    """Returns the version of Stable Diffusion of a file: `"sd1"`, `"sd2"` or `"sdxl"`.

    Raises:
        ValueError: if the file is of none of them.
    """
    if any(name.startswith(UNET) for name in weights):
        for kind, prefixes in TEXT.items():
            if all(any(n.startswith(p) for n in weights) for p in prefixes):
                return kind
    raise ValueError(
        f"{describe(weights)} must have the weights of a whole Stable Diffusion model under their "
        f"original names: {UNET}*, {AUTOENCODER}* and those of a text encoder."
    )


def original_modules(names: Iterable[str]) -> dict[str, str]:
    """Returns the original names of a U-Net's modules by their published names.

    Args:
        names: the published names of all modules of the U-Net.

    Example:
        >>> names = ["down_blocks.0.resnets.1.conv1", "down_blocks.1.attentions.0.proj_in"]
        >>> original_modules(names)["down_blocks.1.attentions.0.proj_in"]
        'input_blocks.4.1.proj_in'
    """
    places = [re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", n) for n in names]
    blocks = 1 + max((int(p[4]) for p in places if p and p[1] == "down"), default=0)
    attending = {int(p[2]) for p in places if p and (p[1], p[3]) == ("up", "attentions")}
    outside = {published: original for original, published in UNET_NAMES.items()}
    inside = {published: original for original, published in RESIDUAL.items()}
    middle = {published: original for original, published in MIDDLE.items()}
    result = {}
    for name in names:
        way, *rest = name.split(".")
        if name in outside:
            result[name] = outside[name]
            continue
        if way == "mid_block":
            kind, start, rest = rest[0], f"middle_block.{middle['.'.join(rest[:2])]}", rest[2:]
        elif way in ("down_blocks", "up_blocks"):
            level, kind, i, rest = int(rest[0]), rest[1], int(rest[2]), rest[3:]
            first = level * (blocks + 1)
            if kind == "downsamplers":
                result[name] = f"input_blocks.{first + blocks + 1}.0.op"
                continue
            if kind == "upsamplers":
                result[name] = f"output_blocks.{first + blocks}.{1 + (level in attending)}.conv"
                continue
            number = f"input_blocks.{first + i + 1}"
            number = number if way == "down_blocks" else f"output_blocks.{first + i}"
            start = f"{number}.{int(kind == 'attentions')}"
        else:
            continue
        rest = ".".join(rest)
        result[name] = f"{start}.{inside.get(rest, rest) if kind == 'resnets' else rest}"
    return result


def _unet_name(name: str, config: dict[str, Any]) -> str | None:
    """Returns the published name of an array of the U-Net, or None if it is unknown."""
    for original, published in UNET_NAMES.items():
        if name.startswith(f"{original}."):
            return published + name.removeprefix(original)
    blocks = by_level(config, "layers_per_block", "unet/config.json")[0]
    levels = len(config["block_out_channels"])
    found = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", name)
    if found is None:
        found = re.fullmatch(r"middle_block\.([012])\.(.+)", name)
        if found is None:
            return None
        return _inside(f"mid_block.{MIDDLE[found[1]]}", found[2])
    way, number, part, rest = found[1], int(found[2]), int(found[3]), found[4]
    level, i = divmod(number - 1 if way == "input" else number, blocks + 1)
    if level >= levels:
        return None
    if way == "input":
        if i == blocks:
            return f"down_blocks.{level}.downsamplers.0.conv.{rest.removeprefix('op.')}"
        return _inside(f"down_blocks.{level}.{'attentions' if part else 'resnets'}.{i}", rest)
    if part and rest in ("conv.weight", "conv.bias"):
        return f"up_blocks.{level}.upsamplers.0.{rest}"
    return _inside(f"up_blocks.{level}.{'attentions' if part else 'resnets'}.{i}", rest)


def _inside(block: str, rest: str) -> str | None:
    """Returns the published name of an array in a residual block or an attention block."""
    if ".resnets." not in block:
        return f"{block}.{rest}"
    module, _, kind = rest.rpartition(".")
    return f"{block}.{RESIDUAL[module]}.{kind}" if module in RESIDUAL else None


def _autoencoder_name(name: str, levels: int) -> str | None:
    """Returns the published name of an array of the autoencoder, or None if it is unknown."""
    half, _, rest = name.partition(".")
    if half in ("quant_conv", "post_quant_conv"):
        return name
    if half not in ("encoder", "decoder"):
        return None
    if rest.startswith(("conv_in.", "conv_out.")):
        return name
    if rest.startswith("norm_out."):
        return f"{half}.conv_{rest}"
    if rest.startswith("mid."):
        for original, published in MIDDLE_OF_AUTOENCODER.items():
            if rest.startswith(f"mid.{original}."):
                return f"{half}.mid_block.{published}{rest.removeprefix(f'mid.{original}')}"
    found = re.fullmatch(r"(down|up)\.(\d+)\.(block|downsample|upsample)\.(.+)", rest)
    if found is None:
        return None
    way, level, what, rest = found[1], int(found[2]), found[3], found[4]
    level = level if way == "down" else levels - 1 - level
    if what != "block":
        return f"{half}.{way}_blocks.{level}.{what}rs.0.{rest}"
    return f"{half}.{way}_blocks.{level}.resnets.{rest.replace('nin_shortcut', 'conv_shortcut')}"


def _add_open_clip(view: View, name: str, source: str, config: dict[str, Any]) -> bool:
    """Adds an array of OpenCLIP to a view; returns whether its name is known."""
    shape = view.weights.shape(source)
    plain = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    }
    if name in plain:
        view.add(plain[name], source)
        return True
    pooled = config["with_projection"]
    if name == "text_projection" and pooled:
        view.add("text_projection.weight", source, shape[::-1], np.transpose)
        return True
    if name in UNUSED:
        return True
    found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
    if found is None:
        return False
    layer, rest = int(found[1]), found[2]
    if layer == config["num_hidden_layers"] and not pooled:
        return True  # the last layer, which SD 2 does not use
    block = f"encoder.layers.{layer}"
    if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind, third = rest.removeprefix("attn.in_proj_"), shape[0] // 3
        for i, part in enumerate("qkv"):
            rows = slice(i * third, (i + 1) * third)
            view.add(
                f"{block}.self_attn.{part}_proj.{kind}",
                source,
                (third, *shape[1:]),
                lambda array, rows=rows: array[rows],
            )
        return True
    module, _, kind = rest.rpartition(".")
    if module not in OPEN_CLIP:
        return False
    view.add(f"{block}.{OPEN_CLIP[module]}.{kind}", source)
    return True
