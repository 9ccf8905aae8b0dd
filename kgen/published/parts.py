"""The parts of a published model: reading from a folder or a single file, and writing to a folder.

    StableDiffusionPipeline      U-Net, autoencoder, text encoder          SD 1, SD 2
    StableDiffusionXLPipeline    U-Net, autoencoder, two text encoders     SD XL
    DDPMPipeline                 U-Net, optional class labels              DDPM

The U-Net receives a latent z of the autoencoder as scaling_factor (z - shift_factor), that is,
standardised by the mean shift_factor (or 0) and the standard deviation 1 / scaling_factor.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752; Podell et al. (2023),
  https://arxiv.org/abs/2307.01952; Ho et al. (2020), https://arxiv.org/abs/2006.11239.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Collection
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save_file

from kgen.conditioning.clip_text import CLIPText
from kgen.conditioning.labels import Labels
from kgen.networks import UNet
from kgen.published import hub
from kgen.published.autoencoder import (
    autoencoder_slots,
    build_autoencoder,
    check_autoencoder_sizes,
    without_quant,
)
from kgen.published.blocks import modern, picture_size
from kgen.published.configs import by_level, read_config
from kgen.published.files import Folder, open_file
from kgen.published.modules import Module, Slot, check_filled, read_slots, slots_of, write_slots
from kgen.published.original import split_parts
from kgen.published.schedulers import PublishedSteps, read_scheduler
from kgen.published.text import PREFIX, open_text, text_parts, tower_modules, write_tokenizer
from kgen.published.unet import build_unet, check_unet_sizes, unet_modules
from kgen.published.weights import Weights
from kgen.types import Prediction

STEM = "diffusion_pytorch_model"
PIPELINES = {
    "StableDiffusionPipeline": "UNet2DConditionModel",
    "StableDiffusionImg2ImgPipeline": "UNet2DConditionModel",
    "StableDiffusionXLPipeline": "UNet2DConditionModel",
    "StableDiffusionXLImg2ImgPipeline": "UNet2DConditionModel",
    "DDPMPipeline": "UNet2DModel",
    "DDIMPipeline": "UNet2DModel",
}
LICENCE = re.compile(r"^license(?:_name)?:\s*(\S.*?)\s*$", re.MULTILINE)
SIX = 6  # numbers of size and crop, on which SD XL is conditional


@dataclasses.dataclass(frozen=True)
class Parts:
    """The networks and configurations of a published model.

    Args:
        pipeline: class of the pipeline.
        configs: the contents of the configuration files, by folder.
        unet: the U-Net.
        steps: the plan of sampling.
        prediction: the prediction type of the U-Net, `"eps"`, `"v"` or `"x"`.
        encoder: None, or the encoder of the autoencoder.
        decoder: None, or the decoder of the autoencoder.
        text: None, or the text encoder.
        labels: None, or the conditioner of class labels; its null condition is zero.
        licence: None, or the licence in the README of the folder.
    """

    pipeline: str
    configs: dict[str, dict]
    unet: UNet
    steps: PublishedSteps
    prediction: Prediction
    encoder: keras.Model | None = None
    decoder: keras.Model | None = None
    text: CLIPText | None = None
    labels: Labels | None = None
    licence: str | None = None

    @property
    def latent_mean_std(self) -> tuple[float, float]:
        """The mean and the standard deviation by which latents are standardised."""
        config = read_config(self.configs["vae"], "AutoencoderKL", "vae")
        return config["shift_factor"] or 0.0, 1 / config["scaling_factor"]

    def modules(self) -> dict[str, dict[str, Module]]:
        """Returns the modules that can have a LoRA, by part and published name."""
        modules = {"unet": self._unet_modules()}
        for i, tower in enumerate(self.text.towers if self.text is not None else ()):
            modules["text_encoder" if i == 0 else f"text_encoder_{i + 1}"] = tower_modules(tower)
        return modules

    def slots(self, left_out: Collection[str] = ()) -> dict[str, list[Slot]]:
        """Returns the variables with their published arrays, by folder.

        Args:
            left_out: folders whose lists are empty.
        """
        slots = {part: slots_of(modules) for part, modules in self.modules().items()}
        if "vae" in left_out:
            slots["vae"] = []
        elif self.decoder is not None:
            config = read_config(self.configs["vae"], "AutoencoderKL", "vae")
            slots["vae"] = autoencoder_slots(self.encoder, self.decoder, config)
        if self.labels is not None:
            slots["unet"].append(_class_slot(self.labels))
        return slots

    def _unet_modules(self) -> dict[str, Module]:
        config = read_config(self.configs["unet"], PIPELINES[self.pipeline], "unet")
        return unet_modules(self.unet, config, "unet")


def open_parts(
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    variant: str | None = None,
    dtype: str | None = None,
    windows: int = 1,
    config: str | os.PathLike | None = None,
) -> Parts:
    """Opens a published model.

    Args:
        path: a folder, a `.safetensors` file with the original names, or the name of a model on
            the Hugging Face hub, `"owner/name"`.
        size: `(height, width)` of the pictures in pixels; None for the size of the training data.
        variant: None, or the variant of the weights, such as `"fp16"`.
        dtype: Keras dtype policy of the networks; None is float32.
        windows: number of windows of 77 tokens per prompt; longer prompts are truncated.
        config: for a single file, a folder (or the name of one on the hub) with a model of the same
            kind, from which configurations and vocabulary are read.

    Returns:
        The `Parts`.

    Raises:
        FileNotFoundError: if a file is missing.
        ImportError: if `path` is a name on the hub and `huggingface_hub` is not installed.
        ValueError: if a file is damaged, or kgen does not support the model.
    """
    single = pathlib.Path(path).suffix != "" and not pathlib.Path(path).is_dir()
    single = single and not hub.is_name(str(path))
    if pathlib.Path(path).is_file():
        single = True
    if single:
        weights = open_file(path)
        if config is None:
            raise ValueError(
                "`config` must be given for a single file: a folder with a model of the same kind, "
                "for the configurations and the vocabulary, which the file does not contain."
            )
        folder = _folder(config, None)
    else:
        folder, weights = _folder(path, variant), None
    index = folder.read_json("model_index.json")
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ValueError(
            f"{folder.root / 'model_index.json'} must be of one of {', '.join(sorted(PIPELINES))}. "
            f"Received: {pipeline!r}."
        )
    configs = {"model_index": index}
    for part, name in (("unet", "config"), ("vae", "config"), ("scheduler", "scheduler_config")):
        if part != "vae" or PIPELINES[pipeline] == "UNet2DConditionModel":
            configs[part] = folder.read_json(f"{part}/{name}.json")
    dtype = dtype or "float32"
    if PIPELINES[pipeline] == "UNet2DModel":
        return _open_ddpm(folder, pipeline, configs, size, variant, dtype)
    return _open_latent(folder, pipeline, configs, size, variant, dtype, windows, weights)


def write_parts(
    parts: Parts,
    directory: str | os.PathLike,
    dtype: str | None = None,
    arrays: dict[str, dict] | None = None,
) -> None:
    """Writes a folder in the diffusers layout.

    Args:
        parts: the parts of the model.
        directory: path of the folder, which must not exist or be empty.
        dtype: dtype of the weights in the files; None for that of the variables.
        arrays: None, or the arrays of folders whose arrays are not the values of variables.

    Raises:
        ValueError: if the directory is not empty.
    """
    ready = arrays or {}
    directory = pathlib.Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"`directory` must not exist, or be empty. Received: {directory}.")
    for part, config in parts.configs.items():
        if part == "model_index":
            _write_json(directory / "model_index.json", config)
        else:
            name = "scheduler_config" if part == "scheduler" else "config"
            _write_json(directory / part / f"{name}.json", config)
    for part, slots in parts.slots(set(ready)).items():
        arrays, stem = ready.get(part) or write_slots(slots, dtype), STEM
        if part.startswith("text_encoder"):
            stem = "model"
            arrays = {
                name if name.startswith("text_projection") else PREFIX + name: array
                for name, array in arrays.items()
            }
        if part == "vae" and parts.configs["vae"].get("use_quant_conv") is False:
            arrays = {n: a for n, a in arrays.items() if not n.startswith("quant_conv")}
        save_file(arrays, directory / part / f"{stem}.safetensors", metadata={"format": "pt"})
    if parts.text is not None:
        names = [tokenizer for _, tokenizer, _ in text_parts(len(parts.text.towers) > 1)]
        for name, tower in zip(names, parts.text.towers):
            write_tokenizer(tower, directory / name)


def _class_slot(labels: Labels) -> Slot:
    """Returns the slot of the class embeddings; kgen's table has a null row too, which is zero."""
    table = labels.table
    rows, width = table.shape
    return Slot(
        ("class_embedding.weight",),
        ((rows - 1, width),),
        table,
        lambda values: np.concatenate([values, np.zeros([1, width], values.dtype)]),
        lambda table: [table[:-1]],
    )


def _folder(path: str | os.PathLike, variant: str | None) -> Folder:
    """Opens a folder, or the folder of a model on the hub."""
    if not pathlib.Path(path).exists() and hub.is_name(str(path)):
        path = hub.fetch(str(path), variant)
    return Folder(path)


def _open_ddpm(
    folder: Folder,
    pipeline: str,
    configs: dict[str, dict[str, Any]],
    size: tuple[int, int] | None,
    variant: str | None,
    dtype: str,
) -> Parts:
    """Opens the parts of a DDPM."""
    source = folder.root / "unet" / "config.json"
    config = read_config(configs["unet"], "UNet2DModel", source)
    steps, prediction = _scheduler(folder, configs)
    weights = modern(folder.weights("unet", STEM, variant))
    check_unet_sizes(config, weights, source)
    unet = build_unet(config, source, noise_index=steps.noise_index, size=size, dtype=dtype)
    labels, networks = None, [unet]
    if config["num_class_embeds"] is not None:
        labels = Labels(config["num_class_embeds"], width=4 * config["block_out_channels"][0])
        networks.append(labels)
    slots = slots_of(unet_modules(unet, config, source))
    if labels is not None:
        slots.append(_class_slot(labels))
    check_filled(slots, *networks)
    read_slots(slots, weights)
    return Parts(
        pipeline, configs, unet, steps, prediction, labels=labels, licence=_licence(folder)
    )


def _open_latent(
    folder: Folder,
    pipeline: str,
    configs: dict[str, dict[str, Any]],
    size: tuple[int, int] | None,
    variant: str | None,
    dtype: str,
    windows: int,
    weights: Weights | None,
) -> Parts:
    """Opens the parts of a Stable Diffusion, from a folder or with the weights of a single file."""
    xl = "XL" in pipeline
    source, vae_source = (folder.root / part / "config.json" for part in ("unet", "vae"))
    config = read_config(configs["unet"], "UNet2DConditionModel", source)
    vae = read_config(configs["vae"], "AutoencoderKL", vae_source)
    steps, prediction = _scheduler(folder, configs)
    texts = []
    for part, _, kind in text_parts(xl):
        place = folder.root / part / "config.json"
        configs[part] = folder.read_json(f"{part}/config.json")
        text = read_config(configs[part], kind, place)
        texts.append({**text, "with_projection": kind.endswith("Projection")})
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    if size is None:
        size = tuple(factor * side for side in picture_size(config, None))
    _check_fit(config, vae, texts, source)
    text_weights = None
    if weights is None:
        unet_weights = modern(folder.weights("unet", STEM, variant))
        vae_weights = modern(folder.weights("vae", STEM, variant))
    else:
        unet_weights, vae_weights, *text_weights = split_parts(weights, config, vae, texts)
    check_unet_sizes(config, unet_weights, source)
    check_autoencoder_sizes(vae, vae_weights, vae_source)

    options = {"windows": windows, "dtype": dtype}
    if xl:
        zeros = configs["model_index"].get("force_zeros_for_empty_prompt", True)
        options |= {"null": "zeros" if zeros else "empty"}
        options |= {"sizes": config["addition_time_embed_dim"], "size": size}
    text = open_text(folder, xl, variant, text_weights, **options)
    encoder, decoder = build_autoencoder(vae, vae_source, size=size, dtype=dtype)
    slots = autoencoder_slots(encoder, decoder, vae)
    check_filled(slots, encoder, decoder)
    read_slots(slots, without_quant(vae_weights, vae))
    unet = build_unet(
        config,
        source,
        noise_index=steps.noise_index,
        size=tuple(side // factor for side in size),
        length=windows * texts[0]["max_position_embeddings"],
        dtype=dtype,
    )
    slots = slots_of(unet_modules(unet, config, source))
    check_filled(slots, unet)
    read_slots(slots, unet_weights)
    return Parts(
        pipeline, configs, unet, steps, prediction, encoder, decoder, text, None, _licence(folder)
    )


def _check_fit(
    unet: dict[str, Any], vae: dict[str, Any], texts: list[dict[str, Any]], source: object
) -> None:
    """Checks that the sizes of the parts are compatible.

    Raises:
        ValueError: if they are not.
    """
    width = sum(text["hidden_size"] for text in texts)
    tokens = by_level(unet, "cross_attention_dim", source)[0]
    if tokens != width:
        raise ValueError(
            f"{source} must have {width} as 'cross_attention_dim', the width of the text. "
            f"Received: {tokens}."
        )
    if unet["in_channels"] != vae["latent_channels"]:
        raise ValueError(
            f"{source} must have {vae['latent_channels']} as 'in_channels', as latents have. "
            f"Received: {unet['in_channels']}."
        )
    pooled = [text["projection_dim"] for text in texts if text["with_projection"]]
    if bool(pooled) != (unet["addition_embed_type"] is not None):
        raise ValueError(
            f"{source} must have 'text_time' as 'addition_embed_type' with two text encoders, and "
            f"only then. Received: {unet['addition_embed_type']!r}."
        )
    if pooled:
        needed = pooled[0] + SIX * unet["addition_time_embed_dim"]
        received = unet["projection_class_embeddings_input_dim"]
        if needed != received:
            raise ValueError(
                f"{source} must have {needed} as 'projection_class_embeddings_input_dim', the "
                f"width of the pooled text and the six numbers. Received: {received}."
            )


def _scheduler(
    folder: Folder, configs: dict[str, dict[str, Any]]
) -> tuple[PublishedSteps, Prediction]:
    return read_scheduler(configs["scheduler"], folder.root / "scheduler" / "scheduler_config.json")


def _licence(folder: Folder) -> str | None:
    """Returns the licence in the README of a folder, or None."""
    if not folder.has("README.md"):
        return None
    with folder.path("README.md").open(encoding="utf-8", errors="replace") as file:
        found = LICENCE.search(file.read(4096))
    return None if found is None else found[1]


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
