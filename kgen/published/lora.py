"""LoRA files: small changes of weights, in the three layouts in which they are published.

    W + scale (alpha / rank) B A,    A "down" [rank, in], B "up" [out, rank]

    diffusers   unet.PATH.lora.down.weight, .up.; in text encoders .lora_linear_layer.down.weight
    peft        unet.PATH.lora_A.weight, .lora_B.
    kohya       lora_unet_PATH.lora_down.weight, .lora_up., .alpha, with _ for . in PATH

PATH is the published name of a module (`kgen.published.unet`, `kgen.published.text`). alpha is a
number of each module, or one of a part in the file's metadata, or else the rank.

A LoRA is merged into weights, which costs nothing afterwards, or attached to layers beside them,
where it can be trained on. Whatever of a file fits no layer is an error that names it.

References:
  Hu et al. (2021), https://arxiv.org/abs/2106.09685, section 4.1.
"""

import dataclasses
import json
import os
import re

import numpy as np
from safetensors.numpy import save_file

from kgen.checks import check_number, check_one_of
from kgen.published.files import open_file
from kgen.published.modules import Module, describe
from kgen.published.original import original_modules
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
# The first LoRA files put them into the processors of attention.
PROCESSOR = re.compile(r"\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight$")


@dataclasses.dataclass(frozen=True)
class Factors:
    """The change of one module.

    Args:
        down: A, `[rank, in]` or `[rank, in, h, w]`.
        up: B, `[out, rank]` or `[out, rank, 1, 1]`.
        alpha: the change is alpha / rank B A.
    """

    down: np.ndarray
    up: np.ndarray
    alpha: float

    @property
    def rank(self):
        """The rank of the change."""
        return self.down.shape[0]

    def change(self) -> np.ndarray:
        """Returns alpha / rank B A as a published weight, float32."""
        down, up = self.down.astype("float32"), self.up.astype("float32")
        product = up.reshape(up.shape[0], -1) @ down.reshape(down.shape[0], -1)
        return self.alpha / self.rank * product.reshape(up.shape[0], *down.shape[1:])


def read_lora(
    path: str | os.PathLike, parts: dict[str, dict[str, Module]]
) -> dict[str, dict[str, Factors]]:
    """Reads a LoRA file of any layout.

    Args:
        path: a `.safetensors` file.
        parts: for each part, `"unet"`, `"text_encoder"` and so on, its modules by their names.

    Returns:
        For each part that the file changes, the factors by the name of the module.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or has something that fits no module; names it.
    """
    weights = open_file(path)
    known = {part: {n.replace(".", "_"): n for n in modules} for part, modules in parts.items()}
    # Files for SD XL call the U-Net's blocks by their original names.
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
            raise ValueError(f"{path} has {key!r}, of which there is another one.")
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
):
    """Writes a LoRA file.

    Args:
        path: the `.safetensors` file.
        lora: for each part, the factors by the name of the module.
        layout: `"diffusers"`, `"peft"` or `"kohya"`.
        dtype: type of the arrays in the file.

    Raises:
        ValueError: for another layout, or where modules of one part have several values of alpha /
            rank, which only kohya's layout can say.
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
    """A LoRA that has been added to weights, and can be taken out again.

    Args:
        lora: for each part, the factors by the name of the module.
        parts: for each part, its modules by their names.
        scale: factor on the whole change.
    """

    def __init__(
        self,
        lora: dict[str, dict[str, Factors]],
        parts: dict[str, dict[str, Module]],
        scale: float = 1.0,
    ):
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

    def unload(self):
        """Puts the weights back that were there before; of several, unload the last one first."""
        for kernel, before in self._before:
            kernel.assign(before)
        self._before = []


def attach(
    loras: list[tuple[dict[str, dict[str, Factors]], float]],
    parts: dict[str, dict[str, Module]],
):
    """Attaches LoRAs to layers, beside their weights (`kgen.training.lora`).

    Of a model use `model.load_lora`, which also sees to what is trained and averaged.

    Args:
        loras: pairs of a LoRA and its scale.
        parts: for each part, its modules by their names.

    Raises:
        ValueError: if a layer has a LoRA already, or is one that Keras cannot give one; merge the
            LoRA then.
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
    """Returns one LoRA that is the sum of several; on one layer it has the sum of their ranks.

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


def _sum(several):
    rank = sum(factors.rank for factors, _ in several)
    alpha = several[0][0].alpha if len(several) == 1 else float(rank)
    down = np.concatenate([factors.down.astype("float32") for factors, _ in several])
    ups = [
        scale * factors.alpha / factors.rank * rank / alpha * factors.up.astype("float32")
        for factors, scale in several
    ]
    return Factors(down, np.concatenate(ups, axis=1), alpha)


def check_attachable(layer, name):
    """Raises a ValueError for a layer to which Keras cannot attach a LoRA."""
    if not hasattr(layer, "enable_lora"):
        raise ValueError(
            f"A LoRA cannot be attached to {name}, a {type(layer).__name__}. Merge it."
        )


def fill(lora: dict[str, dict[str, Factors]], parts: dict[str, dict[str, Module]]):
    """Gives the factors of a LoRA to layers that have one of its ranks."""
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
    """Returns the LoRAs that are attached to layers, trained ones too, for `write_lora`."""
    result = {}
    for part, modules in parts.items():
        for name, module in modules.items():
            layer = module.layer
            if not getattr(layer, "lora_enabled", False):
                continue
            # Values of a scope, such as averages, where there is one.
            a, b = (np.array(v.value) for v in (layer.lora_kernel_a, layer.lora_kernel_b))
            down, up = a.T, b.T
            if module.kind == "convolution":
                down, up = np.transpose(a, (3, 2, 0, 1)), up[:, :, None, None]
            elif module.kind == "pointwise":
                down, up = down[:, :, None, None], up[:, :, None, None]
            result.setdefault(part, {})[name] = Factors(down, up, float(layer.lora_alpha))
    return result


def _place(key, known):
    """The part, the module and the kind of an array, or None."""
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
    # A file of the U-Net alone may leave out whose it is.
    if part not in PARTS:
        part, path = "unet", f"{part}.{path}"
    path = path.removeprefix("text_model.")
    if part not in known or path.replace(".", "_") not in known[part] or path[:1] == "_":
        return None
    module = known[part][path.replace(".", "_")]
    return (part, module, ENDINGS[ending]) if module == path else None


def _alphas(metadata, path):
    """What the metadata says of alpha, by name."""
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


def _factors(weights, module, name, keys, alphas):
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


def _prefixes(lora):
    """How kohya's names of a part begin; one text encoder has no number."""
    several = "text_encoder_2" in lora
    text = "lora_te1_text_model_" if several else "lora_te_text_model_"
    return {
        "unet": "lora_unet_",
        "text_encoder": text,
        "text_encoder_2": "lora_te2_text_model_",
    }


def _target(name):
    """The last part of a module's name, with a number's own module."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
