"""LoRA files: low-rank updates of weights, in the three layouts in which they are published.

    W + scale (alpha / rank) B A,    A "down" [rank, in], B "up" [out, rank]

    diffusers   unet.PATH.lora.down.weight, .up.; in text encoders .lora_linear_layer.down.weight
    peft        unet.PATH.lora_A.weight, .lora_B.
    kohya       lora_unet_PATH.lora_down.weight, .lora_up., .alpha, with _ for . in PATH

PATH is the published name of a module (`kgen.published.unet`, `kgen.published.text`). alpha is an
array of each module, or a number of each part in the metadata, or else the rank.

A LoRA can be merged into the weights, without a cost in sampling, or attached to the layers, where
it can be trained further. An array that belongs to no layer raises an error that names it.

References:
  Hu et al. (2021), https://arxiv.org/abs/2106.09685, section 4.1.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save_file

from kgen.checks import check_number, check_one_of
from kgen.published.files import open_file
from kgen.published.modules import Module, describe
from kgen.published.original import original_modules
from kgen.published.weights import Arrays
from kgen.training.lora import enable

LAYOUTS = ("diffusers", "peft", "kohya")
METADATA = "lora_adapter_metadata"
PARTS = ("unet", "text_encoder", "text_encoder_2")
KOHYA = {
    "lora_unet_": "unet",
    "lora_te1_text_model_": "text_encoder",
    "lora_te2_text_model_": "text_encoder_2",
    "lora_te_text_model_": "text_encoder",
}
ENDINGS = {
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
# Names in the first LoRA files, in which the factors belong to the processors of attention.
PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")


@dataclasses.dataclass(frozen=True)
class Factors:
    """The low-rank update of one module, alpha / rank B A.

    Args:
        down: A, `[rank, in]` or `[rank, in, h, w]`.
        up: B, `[out, rank]` or `[out, rank, 1, 1]`.
        alpha: scale of the update.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return self.down.shape[0]

    def change(self) -> np.ndarray:
        """Returns the update alpha / rank B A in the shape of the published weight, float32."""
        down, up = self.down.astype("float32"), self.up.astype("float32")
        product = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
        return self.alpha / self.rank * product.reshape(up.shape[0], *down.shape[1:])


def read_lora(
    path: str | os.PathLike, parts: dict[str, dict[str, Module]]
) -> dict[str, dict[str, Factors]]:
    """Reads a LoRA file of any layout.

    Args:
        path: a `.safetensors` file.
        parts: the modules of each part (`"unet"`, `"text_encoder"`, ...) by name.

    Returns:
        The factors of each part in the file, by the name of the module.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or an array belongs to no module.
    """
    weights = open_file(path)
    known = {part: {n.replace(".", "_"): n for n in modules} for part, modules in parts.items()}
    # Files for SD XL use the original names of the U-Net's blocks.
    originals = original_modules(parts.get("unet", {}))
    known.setdefault("unet", {}).update({o.replace(".", "_"): n for n, o in originals.items()})
    found, unknown = {}, []
    for key in weights:
        place = _place(key, known)
        if place is None:
            unknown.append(key)
            continue
        part, module, kind = place
        if kind in found.setdefault((part, module), {}):
            raise ValueError(f"{path} has several arrays for one factor, the last of them {key!r}.")
        found[part, module][kind] = key
    if unknown:
        raise ValueError(
            f"{path} has {len(unknown)} arrays that fit no layer of the model, the first of them "
            f"{', '.join(map(repr, unknown[:5]))}."
        )
    if not found:
        raise ValueError(f"{path} has no LoRA in it.")
    alphas = _alphas(weights.metadata, path)
    result = {}
    for (part, module), keys in found.items():
        result.setdefault(part, {})[module] = _factors(
            weights, parts[part][module], f"{part}.{module}", keys, alphas
        )
    weights.close()
    return result


def write_lora(
    path: str | os.PathLike,
    lora: dict[str, dict[str, Factors]],
    layout: str = "diffusers",
    dtype: str = "float32",
) -> None:
    """Writes a LoRA file.

    Args:
        path: path of the `.safetensors` file.
        lora: the factors of each part, by the name of the module.
        layout: `"diffusers"`, `"peft"` or `"kohya"`.
        dtype: dtype of the arrays in the file.

    Raises:
        ValueError: if `layout` is unknown, or if the modules of a part have several ranks or
            alphas, which only the layout `"kohya"` can store.
    """
    check_one_of("layout", layout, LAYOUTS)
    arrays, metadata = {}, {}
    prefixes = _prefixes(lora)
    for part, modules in lora.items():
        for name, factors in modules.items():
            if layout == "kohya":
                start = prefixes[part] + name.replace(".", "_")
                down, up = f"{start}.lora_down.weight", f"{start}.lora_up.weight"
                arrays[f"{start}.alpha"] = np.array(factors.alpha, dtype)
            elif layout == "peft":
                down, up = f"{part}.{name}.lora_A.weight", f"{part}.{name}.lora_B.weight"
            else:
                kind = "lora" if part == "unet" else "lora_linear_layer"
                down, up = (f"{part}.{name}.{kind}.{end}.weight" for end in ("down", "up"))
            arrays[down] = np.ascontiguousarray(factors.down, dtype)
            arrays[up] = np.ascontiguousarray(factors.up, dtype)
        if layout != "kohya":
            pairs = {(factors.rank, factors.alpha) for factors in modules.values()}
            if len(pairs) > 1:
                raise ValueError(
                    f"`layout` must be 'kohya' for factors of several ranks or alphas in {part!r}. "
                    f"Received: layout={layout!r}."
                )
            ((rank, alpha),) = pairs
            targets = sorted({_target(name) for name in modules})
            metadata |= {
                f"{part}.r": rank,
                f"{part}.lora_alpha": alpha,
                f"{part}.target_modules": targets,
            }
    described = {METADATA: json.dumps(metadata, indent=2)} if metadata else {}
    save_file(arrays, path, metadata={"format": "pt", **described})


class Merged:
    """A LoRA that is merged into weights and can be removed again.

    Args:
        lora: the factors of each part, by the name of the module.
        parts: the modules of each part, by name.
        scale: factor of the update.

    Raises:
        TypeError: if `scale` is not a number.
        ValueError: if `scale` is not finite.
    """

    def __init__(
        self,
        lora: dict[str, dict[str, Factors]],
        parts: dict[str, dict[str, Module]],
        scale: float = 1.0,
    ) -> None:
        check_number("scale", scale)
        pairs = [
            (parts[part][name], factors)
            for part, modules in lora.items()
            for name, factors in modules.items()
        ]
        self._before = []
        for module, factors in pairs:
            kernel = module.kernel
            before = kernel.numpy()
            self._before.append((kernel, before))
            change = module.to_ours(factors.change(), before.shape)
            kernel.assign(before.astype("float32") + scale * change)

    def unload(self) -> None:
        """Restores the weights from before the merge.

        If several LoRAs are merged, they must be unloaded in reverse order.
        """
        for kernel, before in self._before:
            kernel.assign(before)
        self._before = []


def attach(
    loras: list[tuple[dict[str, dict[str, Factors]], float]],
    parts: dict[str, dict[str, Module]],
) -> None:
    """Attaches LoRAs to layers, beside their weights (`kgen.training.lora`).

    For a model, use `model.load_lora`, which also sets what is trained and averaged.

    Args:
        loras: pairs of a LoRA and its scale.
        parts: the modules of each part, by name.

    Raises:
        ValueError: if a layer has a LoRA already, or is of a kind to which Keras cannot attach one;
            such a LoRA can be merged.
    """
    factors = combined(loras)
    for part, modules in factors.items():
        for name in modules:
            check_attachable(parts[part][name].layer, f"{part}.{name}")
            if parts[part][name].layer.lora_enabled:
                raise ValueError(f"{part}.{name} has a LoRA already. Unload it first.")
    for part, modules in factors.items():
        for name, one in modules.items():
            enable(parts[part][name].layer, one.rank, one.alpha)
    fill(factors, parts)


def combined(
    loras: list[tuple[dict[str, dict[str, Factors]], float]],
) -> dict[str, dict[str, Factors]]:
    """Returns one LoRA that is the sum of several; its rank is the sum of the ranks per layer.

    Args:
        loras: pairs of a LoRA and its scale.
    """
    found = {}
    for lora, scale in loras:
        for part, modules in lora.items():
            for name, factors in modules.items():
                found.setdefault(part, {}).setdefault(name, []).append((factors, scale))
    return {
        part: {name: _sum(several) for name, several in modules.items()}
        for part, modules in found.items()
    }


def _sum(several: Sequence[tuple[Factors, float]]) -> Factors:
    """Returns the sum of pairs of factors and a scale."""
    rank = sum(factors.rank for factors, _ in several)
    alpha = several[0][0].alpha if len(several) == 1 else float(rank)
    down = np.concatenate([factors.down.astype("float32") for factors, _ in several])
    ups = [
        scale * factors.alpha / factors.rank * rank / alpha * factors.up.astype("float32")
        for factors, scale in several
    ]
    return Factors(down, np.concatenate(ups, axis=1), alpha)


def check_attachable(layer: keras.layers.Layer, name: str) -> None:
    """Checks that Keras can attach a LoRA to a layer.

    Raises:
        ValueError: if it cannot.
    """
    if not hasattr(layer, "enable_lora"):
        raise ValueError(
            f"A LoRA cannot be attached to {name}, a {type(layer).__name__}. Merge it."
        )


def fill(lora: dict[str, dict[str, Factors]], parts: dict[str, dict[str, Module]]) -> None:
    """Assigns the factors of a LoRA to layers that have a LoRA of the same ranks.

    Args:
        lora: the factors of each part, by the name of the module.
        parts: the modules of each part, by name.
    """
    for part, modules in lora.items():
        for name, factors in modules.items():
            module = parts[part][name]
            if module.kind == "convolution":
                down = np.transpose(factors.down, (2, 3, 1, 0))
            else:
                down = factors.down.reshape(factors.rank, -1).T
            module.layer.lora_kernel_a.assign(down)
            module.layer.lora_kernel_b.assign(factors.up.reshape(factors.up.shape[0], -1).T)


def attached(parts: dict[str, dict[str, Module]]) -> dict[str, dict[str, Factors]]:
    """Returns the LoRA that is attached to layers, for `write_lora`.

    Args:
        parts: the modules of each part, by name.

    Returns:
        The factors of each part, by the name of the module.
    """
    result = {}
    for part, modules in parts.items():
        for name, module in modules.items():
            layer = module.layer
            if not getattr(layer, "lora_enabled", False):
                continue
            # `value` is the average inside of a scope of averaged weights.
            a, b = (np.array(v.value) for v in (layer.lora_kernel_a, layer.lora_kernel_b))
            down, up = a.T, b.T
            if module.kind == "convolution":
                down, up = np.transpose(a, (3, 2, 0, 1)), up[:, :, None, None]
            elif module.kind == "pointwise":
                down, up = down[:, :, None, None], up[:, :, None, None]
            result.setdefault(part, {})[name] = Factors(down, up, float(layer.lora_alpha))
    return result


def _place(key: str, known: dict[str, dict[str, str]]) -> tuple[str, str, str] | None:
    """Returns the part, the module and the kind (down, up or alpha) of an array, or None."""
    old = PROCESSOR.search(key)
    if old is not None:
        module = f".to_{old[1]}" + (".0" if old[1] == "out" else "")
        key = f"{key[: old.start()]}{module}.lora.{old[2]}.weight"
    ending = max((e for e in ENDINGS if key.endswith(e)), key=len, default=None)
    if ending is None:
        return None
    path = key.removesuffix(ending)
    for prefix, part in KOHYA.items():
        if path.startswith(prefix) and part in known:
            module = known[part].get(path.removeprefix(prefix))
            return None if module is None else (part, module, ENDINGS[ending])
    part, _, path = path.partition(".")
    # Files of the U-Net alone may have names without the part.
    if part not in PARTS:
        part, path = "unet", f"{part}.{path}"
    path = path.removeprefix("text_model.")
    if part not in known or path.replace(".", "_") not in known[part] or path[:1] == "_":
        return None
    module = known[part][path.replace(".", "_")]
    return (part, module, ENDINGS[ending]) if module == path else None


def _alphas(metadata: Mapping[str, str], path: str | os.PathLike) -> dict[str, Any]:
    """Returns the metadata of PEFT in a file, which may contain alphas."""
    text = metadata.get(METADATA)
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {METADATA!r} must be JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: {METADATA!r} must be a dictionary.")
    return values


def _factors(
    weights: Arrays, module: Module, name: str, keys: dict[str, str], alphas: dict[str, Any]
) -> Factors:
    """Reads and validates the factors of a module.

    Args:
        weights: the arrays of the file.
        module: the module.
        name: the part and the name of the module.
        keys: the names of the arrays `"down"`, `"up"` and perhaps `"alpha"`.
        alphas: the metadata of the file.
    """
    missing = {"down", "up"} - set(keys)
    if missing:
        raise ValueError(
            f"{describe(weights)} must have both factors of {name!r}. "
            f"Received: {sorted(keys.values())} alone."
        )
    down, up = weights[keys["down"]], weights[keys["up"]]
    (slot, *_) = module.slots(name)
    out, *inputs = slot.shapes[0]
    size = int(np.prod(inputs))
    fits = down.ndim >= 2 and up.ndim >= 2 and down.shape[0] == up.shape[1]
    fits = fits and up.shape[0] == out == up.size // up.shape[1]
    if not fits or down.size // max(down.shape[0], 1) != size:
        raise ValueError(
            f"{describe(weights)} must have factors of {name!r} for a weight of shape "
            f"{list(slot.shapes[0])}. Received: {keys['down']!r} of shape {list(down.shape)} and "
            f"{keys['up']!r} of shape {list(up.shape)}."
        )
    rank = down.shape[0]
    part, _, path = name.partition(".")
    alpha = alphas.get(f"{part}.lora_alpha", rank)
    pattern = alphas.get(f"{part}.alpha_pattern")
    if isinstance(pattern, dict):
        alpha = next((v for k, v in pattern.items() if path == k or path.endswith(f".{k}")), alpha)
    if "alpha" in keys:
        alpha = weights[keys["alpha"]]
        alpha = alpha.item() if alpha.size == 1 else None
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not np.isfinite(alpha):
        raise ValueError(
            f"{describe(weights)} must have a finite number as alpha of {name!r}. "
            f"Received: {alpha!r}."
        )
    if not (np.isfinite(down).all() and np.isfinite(up).all()):
        raise ValueError(f"{describe(weights)} must have finite factors of {name!r}.")
    return Factors(down, up, float(alpha))


def _prefixes(lora: dict[str, dict[str, Factors]]) -> dict[str, str]:
    """Returns the prefixes of the parts in the layout of kohya; a single text encoder has no 1."""
    several = "text_encoder_2" in lora
    text = "lora_te1_text_model_" if several else "lora_te_text_model_"
    return {
        "unet": "lora_unet_",
        "text_encoder": text,
        "text_encoder_2": "lora_te2_text_model_",
    }


def _target(name: str) -> str:
    """Returns the last component of a module's name; of a number, with the component before it."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
