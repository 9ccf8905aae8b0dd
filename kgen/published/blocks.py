"""Modules of the blocks that published networks share, and earlier names of modules.

kgen numbers the levels of a network from the finest one, also on the way up, where published
networks number them from the coarsest one. Earlier autoencoders and the networks of DDPM name the
projections of attention `query`, `key`, `value` and `proj_attn`.
"""

from collections.abc import Callable

import keras
import numpy as np

from kgen.published.modules import Module, Renamed
from kgen.published.weights import Arrays

OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def modern(weights: Arrays) -> Renamed:
    """Returns weights with the present names of the projections of attention."""

    def rename(name: str) -> str:
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        return name

    return Renamed(weights, rename)


class Added(Renamed):
    """Arrays of files with additional arrays.

    Args:
        weights: the arrays of files.
        more: the additional arrays by name.
    """

    def __init__(self, weights: Arrays, more: dict[str, np.ndarray]) -> None:
        super().__init__(weights, lambda name: name)
        self.names |= {name: None for name in more}
        self.more = more

    def __getitem__(self, name: str) -> np.ndarray:
        return self.more[name] if name in self.more else super().__getitem__(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array without reading it."""
        return self.more[name].shape if name in self.more else super().shape(name)


def residual_modules(get: Callable, ours: str, name: str) -> dict[str, Module]:
    """Returns the modules of a residual block by their published names.

    Args:
        get: a function that returns a layer by its name.
        ours: prefix of the names of the block's layers in kgen.
        name: the published name of the block.
    """
    modules = {
        f"{name}.norm1": Module(get(f"{ours}_norm1"), "norm"),
        f"{name}.conv1": Module(get(f"{ours}_conv1"), "convolution"),
        f"{name}.norm2": Module(get(f"{ours}_norm2"), "norm"),
        f"{name}.conv2": Module(get(f"{ours}_conv2"), "convolution"),
    }
    for suffix, module, kind in (
        ("time", "time_emb_proj", "linear"),
        ("skip", "conv_shortcut", "convolution"),
    ):
        layer = _get_or_none(get, f"{ours}_{suffix}")
        if layer is not None:
            modules[f"{name}.{module}"] = Module(layer, kind)
    return modules


def _get_or_none(get: Callable[[str], keras.layers.Layer], name: str) -> keras.layers.Layer | None:
    """Returns a layer by its name, or None if the network has no such layer."""
    try:
        return get(name)
    except ValueError:
        return None


def attention_modules(layer: keras.layers.Layer, name: str) -> dict[str, Module]:
    """Returns the four projections of an attention layer by their published names.

    Args:
        layer: the attention layer.
        name: its published name.
    """
    return {
        f"{name}.to_q": Module(layer.to_q),
        f"{name}.to_k": Module(layer.to_k),
        f"{name}.to_v": Module(layer.to_v),
        f"{name}.to_out.0": Module(layer.to_out),
    }


def transformer_modules(
    get: Callable, ours: str, name: str, depth: int, linear: bool
) -> dict[str, Module]:
    """Returns the modules of a spatial transformer by their published names.

    Args:
        get: a function that returns a layer by its name.
        ours: prefix of the names of the transformer's layers in kgen.
        name: the published name of the transformer.
        depth: number of its blocks.
        linear: whether its projections are linear layers; otherwise they are 1 x 1 convolutions.
    """
    kind = "linear" if linear else "pointwise"
    modules = {
        f"{name}.norm": Module(get(f"{ours}_norm"), "norm"),
        f"{name}.proj_in": Module(get(f"{ours}_proj_in"), kind),
        f"{name}.proj_out": Module(get(f"{ours}_proj_out"), kind),
    }
    for k in range(depth):
        part = ours if k == 0 else f"{ours}_{k}"
        block = f"{name}.transformer_blocks.{k}"
        for i in (1, 2, 3):
            modules[f"{block}.norm{i}"] = Module(get(f"{part}_norm{i}"), "norm")
        for i in (1, 2):
            modules |= attention_modules(get(f"{part}_attn{i}"), f"{block}.attn{i}")
        modules[f"{block}.ff.net.0.proj"] = Module(get(f"{part}_ff_in"))
        modules[f"{block}.ff.net.2"] = Module(get(f"{part}_ff_out"))
    return modules


def picture_size(config: dict, size: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the requested size `(height, width)`, or else that of a configuration, or else 64."""
    size = config["sample_size"] if size is None else size
    return (64, 64) if size is None else (size, size) if isinstance(size, int) else tuple(size)
