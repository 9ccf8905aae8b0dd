"""Blocks that published networks share, with their modules; and the names that old files have.

kgen numbers levels from the finest one; published networks number the way up from the coarsest. Old
autoencoders and DDPM's networks call the parts of attention `query`, `key`, `value` and
`proj_attn`.
"""

from collections.abc import Callable

import keras
import numpy as np

from kgen.published.modules import Module, Renamed

OLD_NAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}


def modern(weights) -> Renamed:
    """Returns weights under the present names of the parts of attention."""

    def rename(name):
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        return name

    return Renamed(weights, rename)


class Added(Renamed):
    """Arrays of files, and a few more.

    Args:
        weights: the arrays of files.
        more: the others by name.
    """

    def __init__(self, weights, more: dict[str, np.ndarray]):
        super().__init__(weights, lambda name: name)
        self.names |= {name: None for name in more}
        self.more = more

    def __getitem__(self, name):
        return self.more[name] if name in self.more else super().__getitem__(name)

    def shape(self, name):
        """Returns the shape of an array, without reading it."""
        return self.more[name].shape if name in self.more else super().shape(name)


def residual_modules(get: Callable, ours: str, name: str) -> dict[str, Module]:
    """Returns the modules of a residual block.

    Args:
        get: returns a layer by its name.
        ours: how the names of its layers begin.
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
        layer = _maybe(get, f"{ours}_{suffix}")
        if layer is not None:
            modules[f"{name}.{module}"] = Module(layer, kind)
    return modules


def _maybe(get, name):
    """A layer, or None where the network has none of that name."""
    try:
        return get(name)
    except ValueError:
        return None


def attention_modules(layer: keras.layers.Layer, name: str) -> dict[str, Module]:
    """Returns the four projections of an attention layer."""
    return {
        f"{name}.to_q": Module(layer.to_q),
        f"{name}.to_k": Module(layer.to_k),
        f"{name}.to_v": Module(layer.to_v),
        f"{name}.to_out.0": Module(layer.to_out),
    }


def transformer_modules(
    get: Callable, ours: str, name: str, depth: int, linear: bool
) -> dict[str, Module]:
    """Returns the modules of a spatial transformer.

    Args:
        get: returns a layer by its name.
        ours: how the names of its layers begin.
        name: the published name of the transformer.
        depth: number of its blocks.
        linear: whether its projections are linear layers or 1 x 1 convolutions.
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
    """Returns the size that was asked for, or else that of a configuration, else 64."""
    size = config["sample_size"] if size is None else size
    return (64, 64) if size is None else (size, size) if isinstance(size, int) else tuple(size)
