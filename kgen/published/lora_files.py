"""Saving and loading of the LoRA of a model.

The modules of a published model have their published names, so that kgen and other libraries can
read each other's files. The modules of other models have the names of their layers:

    unet.down_1_0_attn_attn1.to_q.lora.down.weight      part, layer, factor
"""

import os

import keras

from kgen.models.finetuned_model import FineTunedModel
from kgen.published.configs import read_config
from kgen.published.lora import attached, check_attachable, combined, fill, read_lora, write_lora
from kgen.published.modules import Module
from kgen.published.parts import PIPELINES
from kgen.published.text import tower_modules
from kgen.published.unet import unet_modules
from kgen.training.lora import candidates, names


def lora_modules(model: FineTunedModel) -> dict[str, dict[str, Module]]:
    """Returns the modules of a model that can have a LoRA, by part and name."""
    networks, published = model.lora_parts(), getattr(model, "published", None)
    if published is not None:
        config = read_config(published.configs["unet"], PIPELINES[published.pipeline], "unet")
        texts = {part: tower_modules(net) for part, net in networks.items() if part != "unet"}
        return {"unet": unet_modules(model.network, config, "unet"), **texts}
    named = {part: names(network) for part, network in networks.items()}
    modules = {part: {} for part in networks}
    for (part, _), layer in candidates(networks).items():
        name = named[part].get(id(layer), layer.name)
        modules[part][name.removeprefix("graph.")] = _module(layer)
    return modules


def save_lora(model: FineTunedModel, path: str | os.PathLike, layout: str, dtype: str) -> None:
    """Writes the averaged LoRA of a model to a file.

    Args:
        model: a model with a LoRA.
        path: a `.safetensors` file.
        layout: `"diffusers"`, `"peft"` or `"kohya"`.
        dtype: dtype of the arrays in the file.

    Raises:
        ValueError: if the model has no LoRA, or the layout is unknown or cannot store it.
    """
    if model.lora is None:
        raise ValueError("The model has no LoRA. Call `enable_lora(rank)` or `load_lora(path)`.")
    with model.averaged():
        write_lora(path, attached(lora_modules(model)), layout, dtype)


def load_lora(model: FineTunedModel, path: str | os.PathLike, scale: float) -> None:
    """Adds the LoRA of a file to a model, and to the LoRA that the model has already.

    Args:
        model: the model.
        path: a `.safetensors` file.
        scale: factor of the update in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or the model has no layer for one of its arrays.
    """
    modules = lora_modules(model)
    loras = [(read_lora(path, modules), scale)]
    if model.lora is not None:
        with model.averaged():
            loras.insert(0, (attached(modules), 1.0))
    factors = combined(loras)
    places = {id(layer): key for key, layer in candidates(model.lora_parts()).items()}
    ranks = {}
    for part, changed in factors.items():
        for name, one in changed.items():
            layer = modules[part][name].layer
            check_attachable(layer, f"{part}.{name}")
            _, place = places[id(layer)]
            ranks.setdefault(part, {})[place] = (one.rank, one.alpha)
    if model.lora is not None:
        model.unload_lora()
    model.attach_lora(ranks)
    fill(factors, modules)
    model.averages.reset()


def _module(layer: keras.layers.Layer) -> Module:
    """Returns the module of a layer, for `EinsumDense` with the number of input axes."""
    if isinstance(layer, keras.layers.EinsumDense):
        inputs, kernel = layer.equation.split("->")[0].split(",")
        return Module(layer, "linear", sum(axis in inputs for axis in kernel))
    return Module(layer, "linear" if isinstance(layer, keras.layers.Dense) else "convolution")
