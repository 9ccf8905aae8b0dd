"""Single files with the original names: the names one by one, and whole files made from folders."""

import re

import numpy as np
import pytest
from published.opened import FIXTURES
from safetensors.numpy import load_file, save_file

from kgen.published.configs import UNET_CONDITION, read_config
from kgen.published.files import Folder, open_file
from kgen.published.original import (
    _autoencoder_name,
    _unet_name,
    family,
    original_modules,
    split_parts,
)

SD15 = {key: rule.default for key, rule in UNET_CONDITION.items()}
# Names in the published file of Stable Diffusion 1.5, and of the folder of the same weights.
NAMES = {
    "time_embed.2.bias": "time_embedding.linear_2.bias",
    "input_blocks.0.0.weight": "conv_in.weight",
    "input_blocks.1.0.in_layers.0.weight": "down_blocks.0.resnets.0.norm1.weight",
    "input_blocks.2.1.proj_in.weight": "down_blocks.0.attentions.1.proj_in.weight",
    "input_blocks.3.0.op.weight": "down_blocks.0.downsamplers.0.conv.weight",
    "input_blocks.4.0.skip_connection.bias": "down_blocks.1.resnets.0.conv_shortcut.bias",
    "input_blocks.8.1.transformer_blocks.0.ff.net.0.proj.weight": (
        "down_blocks.2.attentions.1.transformer_blocks.0.ff.net.0.proj.weight"
    ),
    "input_blocks.11.0.emb_layers.1.weight": "down_blocks.3.resnets.1.time_emb_proj.weight",
    "middle_block.0.out_layers.3.weight": "mid_block.resnets.0.conv2.weight",
    "middle_block.1.transformer_blocks.0.attn2.to_k.weight": (
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    ),
    "middle_block.2.in_layers.2.bias": "mid_block.resnets.1.conv1.bias",
    "output_blocks.0.0.out_layers.0.bias": "up_blocks.0.resnets.0.norm2.bias",
    "output_blocks.2.1.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
    "output_blocks.5.1.norm.weight": "up_blocks.1.attentions.2.norm.weight",
    "output_blocks.5.2.conv.bias": "up_blocks.1.upsamplers.0.conv.bias",
    "output_blocks.11.1.transformer_blocks.0.norm3.weight": (
        "up_blocks.3.attentions.2.transformer_blocks.0.norm3.weight"
    ),
    "out.0.weight": "conv_norm_out.weight",
    "out.2.bias": "conv_out.bias",
    "label_emb.0.2.weight": "add_embedding.linear_2.weight",
    "input_blocks.20.0.in_layers.0.weight": None,
    "temporal.0.weight": None,
}
AUTOENCODER_NAMES = {
    "encoder.conv_in.weight": "encoder.conv_in.weight",
    "encoder.down.1.block.0.nin_shortcut.weight": (
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"
    ),
    "encoder.down.2.downsample.conv.bias": "encoder.down_blocks.2.downsamplers.0.conv.bias",
    "encoder.mid.attn_1.proj_out.weight": "encoder.mid_block.attentions.0.to_out.0.weight",
    "encoder.norm_out.weight": "encoder.conv_norm_out.weight",
    "decoder.mid.block_2.conv2.weight": "decoder.mid_block.resnets.1.conv2.weight",
    "decoder.up.3.block.2.norm1.bias": "decoder.up_blocks.0.resnets.2.norm1.bias",
    "decoder.up.1.upsample.conv.weight": "decoder.up_blocks.2.upsamplers.0.conv.weight",
    "post_quant_conv.weight": "post_quant_conv.weight",
    "loss.discriminator.weight": None,
}


@pytest.mark.parametrize(("original", "published"), NAMES.items())
def test_names_of_the_unet(original, published):
    assert _unet_name(original, SD15) == published


@pytest.mark.parametrize(("original", "published"), AUTOENCODER_NAMES.items())
def test_names_of_the_autoencoder(original, published):
    assert _autoencoder_name(original, 4) == published


def test_names_of_the_unet_the_other_way():
    """Of every module; the names of blocks tell how many there are of each kind."""
    modules = {}
    for original, published in NAMES.items():
        if published is not None:
            modules[published.rpartition(".")[0]] = original.rpartition(".")[0]
    modules["up_blocks.1.attentions.0.norm"] = "output_blocks.3.1.norm"
    assert original_modules(list(modules)) == modules


def _unet_original(name, blocks):
    """The other direction, for the fixtures."""
    swaps = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for new, old in swaps.items():
        if name.startswith(new + "."):
            return old + name[len(new) :]
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    way, rest = name.split(".", 1)
    if way == "mid_block":
        kind, i, rest = rest.split(".", 2)
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(i)}"
    else:
        level, kind, i, rest = rest.split(".", 3)
        level, i = int(level), int(i)
        if kind == "downsamplers":
            number = (level + 1) * (blocks + 1)
            return f"input_blocks.{number}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{level * (blocks + 1) + blocks}.UP.{rest}"
        number = level * (blocks + 1) + i
        part = int(kind == "attentions")
        way = f"input_blocks.{number + 1}" if way == "down_blocks" else f"output_blocks.{number}"
        place = f"{way}.{part}"
    if kind == "resnets":
        module, suffix = rest.rsplit(".", 1)
        rest = f"{inner[module]}.{suffix}"
    return f"{place}.{rest}"


def _autoencoder_original(name, levels):
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    for new, old in (
        ("resnets.0", "block_1"),
        ("resnets.1", "block_2"),
        ("attentions.0", "attn_1"),
    ):
        name = name.replace(f"mid_block.{new}.", f"mid.{old}.")
    for new, old in (("group_norm", "norm"), ("query", "q"), ("key", "k"), ("value", "v")):
        name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    for new, old in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"attn_1.{new}.", f"attn_1.{old}.")
    name = name.replace("attn_1.proj_attn.", "attn_1.proj_out.")
    name = re.sub(r"down_blocks\.(\d)\.", r"down.\1.", name)
    name = re.sub(r"up_blocks\.(\d)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
    name = name.replace("resnets", "block")
    return re.sub(r"(down|up)samplers\.0", r"\1sample", name)


def _open_clip(arrays):
    """A transformer's arrays under OpenCLIP's names, with one layer more than is used."""
    arrays = {name.removeprefix("text_model."): array for name, array in arrays.items()}
    result, layers = {}, 0
    for name, array in arrays.items():
        found = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", name)
        if found is None:
            plain = {
                "embeddings.token_embedding.weight": "token_embedding.weight",
                "embeddings.position_embedding.weight": "positional_embedding",
                "final_layer_norm.weight": "ln_final.weight",
                "final_layer_norm.bias": "ln_final.bias",
                "text_projection.weight": "text_projection",
            }
            if name in plain:
                result[plain[name]] = array.T if name.startswith("text_proj") else array
            continue
        layers = max(layers, int(found[1]) + 1)
        block, rest = f"transformer.resblocks.{found[1]}", found[2]
        if rest.startswith("self_attn.q_proj"):
            kind = rest.rsplit(".", 1)[1]
            parts = [arrays[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            result[f"{block}.attn.in_proj_{kind}"] = np.concatenate(parts)
        elif not rest.startswith(("self_attn.k_proj", "self_attn.v_proj")):
            swaps = (
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("self_attn", "attn"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            )
            for new, old in swaps:
                rest = rest.replace(new, old)
            result[f"{block}.{rest}"] = array
    return result, layers


def load(folder, part):
    arrays = {}
    for path in sorted((folder / part).glob("*.safetensors")):
        if ".fp16." not in path.name:
            arrays |= load_file(path)
    return arrays


def single_file(pipeline, path, **more):
    """A fixture as one file with the original names."""
    folder = FIXTURES / pipeline
    config = Folder(folder).read_json("unet/config.json")
    blocks = config["layers_per_block"]
    ups = ["CrossAttn" in kind for kind in config["up_block_types"]]
    arrays = {"betas": np.zeros(3, "float32"), "model_ema.decay": np.ones(1, "float32")}
    for name, array in load(folder, "unet").items():
        name = _unet_original(name, blocks)
        if ".UP." in name:
            level = int(name.split(".")[1]) // (blocks + 1)
            name = name.replace(".UP.", f".{2 if ups[level] else 1}.")
        arrays[f"model.diffusion_model.{name}"] = array
    levels = len(Folder(folder).read_json("vae/config.json")["block_out_channels"])
    for name, array in load(folder, "vae").items():
        name = _autoencoder_original(name, levels)
        if "mid.attn_1" in name and name.endswith("weight") and array.ndim == 2:
            array = array[:, :, None, None]  # 1 x 1 convolutions in the original
        arrays[f"first_stage_model.{name}"] = array
    text = load(folder, "text_encoder")
    if pipeline == "sd2":
        text, layers = _open_clip(text)
        last = f"transformer.resblocks.{layers - 1}."
        extra = {n.replace(last, f"transformer.resblocks.{layers}."): a for n, a in text.items()}
        text = {**extra, **text, "logit_scale": np.ones(1), "text_projection": np.ones((32, 32))}
        arrays |= {f"cond_stage_model.model.{n}": a for n, a in text.items()}
    else:
        prefix = "cond_stage_model" if pipeline == "sd1" else "conditioner.embedders.0"
        text = {f"text_model.{n.removeprefix('text_model.')}": a for n, a in text.items()}
        arrays |= {f"{prefix}.transformer.{n}": a for n, a in text.items()}
    if pipeline == "sdxl":
        text, _ = _open_clip(load(folder, "text_encoder_2"))
        text["logit_scale"] = np.ones(1)
        arrays |= {f"conditioner.embedders.1.model.{n}": a for n, a in text.items()}
    arrays = {**arrays, **more}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, path)
    return path


def configs(pipeline):
    folder = Folder(FIXTURES / pipeline)
    unet = read_config(folder.read_json("unet/config.json"), "UNet2DConditionModel", "unet")
    vae = read_config(folder.read_json("vae/config.json"), "AutoencoderKL", "vae")
    texts = []
    for part in ("text_encoder", "text_encoder_2"):
        if folder.has(f"{part}/config.json"):
            config = folder.read_json(f"{part}/config.json")
            kind = config["architectures"][0]
            config = read_config(config, kind, part)
            texts.append({**config, "with_projection": kind.endswith("Projection")})
    return unet, vae, texts


@pytest.mark.parametrize("pipeline", ["sd1", "sd2", "sdxl"])
def test_parts_are_those_of_the_folder(pipeline, tmp_path):
    weights = open_file(single_file(pipeline, tmp_path / "model.safetensors"))
    assert family(weights) == pipeline
    unet, vae, *texts = split_parts(weights, *configs(pipeline))
    folder = FIXTURES / pipeline
    parts = [(unet, "unet"), (vae, "vae"), (texts[0], "text_encoder")]
    parts += [(text, "text_encoder_2") for text in texts[1:]]
    for view, part in parts:
        expected = load(folder, part)
        if part == "vae":
            old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
            expected = {
                ".".join(old.get(w, w) for w in n.split(".")): a for n, a in expected.items()
            }
        if part.startswith("text"):
            expected = {n.removeprefix("text_model."): a for n, a in expected.items()}
        received = {name.removeprefix("text_model."): name for name in view}
        assert set(received) == set(expected)
        for name, array in expected.items():
            value = view[received[name]]
            assert view.shape(received[name]) == value.shape
            np.testing.assert_array_equal(value.reshape(array.shape), array)


def test_unknown_arrays_are_named(tmp_path):
    more = {"control_model.zero_conv.weight": np.ones(2, "float32")}
    weights = open_file(single_file("sd1", tmp_path / "model.safetensors", **more))
    with pytest.raises(ValueError, match=r"model\.safetensors has 1 arrays .*'control_model"):
        split_parts(weights, *configs("sd1"))


def test_files_of_another_kind(tmp_path):
    save_file({"lora_unet_x.alpha": np.ones(1, "float32")}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"lora\.safetensors must have the weights of a whole"):
        family(open_file(tmp_path / "lora.safetensors"))
    weights = open_file(single_file("sdxl", tmp_path / "xl.safetensors"))
    unet, vae, texts = configs("sdxl")
    with pytest.raises(ValueError, match="must have 1 text encoders"):
        split_parts(weights, unet, vae, texts[:1])
