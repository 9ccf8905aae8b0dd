"""The files of text encoders: KerasHub presets, with additional settings of kgen.

A preset is a folder with the files `config.json`, `model.weights.h5`, `tokenizer.json` and assets
of KerasHub. `kgen_text_encoder.json` contains the settings of kgen:

    {"activation": "gelu_erf", "pooling": "mean", "normalize": true, "sequence_length": 32}

The BERT of KerasHub computes the GELU, x P(Z < x) for a standard normal Z, by a tanh approximation,
but some checkpoints were trained with the exact error function. The configuration of KerasHub has
no such option, so that the setting `"gelu_erf"` replaces the activation. A model with a frozen
encoder stores the path of its folder and the sha256 of its weights and its tokenizer, so that a
changed encoder raises an error instead of changing the pictures.

Before anything is built, the files are validated and, for the encoder of a model, their checksums
compared: the backbone must be a class of KerasHub, no larger than its file of weights, and the
tokenizer of a class that `kgen.conditioning.tokenizers` lists.

References:
  GELU: Hendrycks and Gimpel (2016), section 2, https://arxiv.org/abs/1606.08415.
"""

import contextlib
import hashlib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kgen import tensors
from kgen.conditioning import tokenizers
from kgen.files.budget import budget
from kgen.files.configs import check_config, check_no_code, resolve
from kgen.files.folders import inside
from kgen.files.hdf5 import check_hdf5
from kgen.files.safetensors import read_header
from kgen.files.text import read_json, reason
from kgen.types import Path

DEFAULT_SETTINGS = {
    "activation": None,
    "pooling": "mean",
    "normalize": True,
    "sequence_length": 32,
}
SETTINGS_FILE = "kgen_text_encoder.json"
WEIGHTS_PATTERNS = ("model.weights*.h5", "*.safetensors")
SUMS = {"sha256": "weights are not those", "tokenizer_sha256": "tokenizer is not the one"}
ROOT = pathlib.Path(__file__).parents[2]


def locate(preset: Path) -> pathlib.Path | None:
    """Returns the folder of a preset, or None if there is no such folder.

    Args:
        preset: a path relative to the working directory or the root of the checkout.
    """
    for folder in (pathlib.Path(preset), ROOT / preset):
        if folder.is_dir():
            return folder
    return None


def portable(preset: Path, folder: pathlib.Path | None) -> str:
    """Returns the path for a configuration, relative to the root of the checkout if inside of it.

    Args:
        preset: the path or the name that the caller passed.
        folder: the folder, or None for a published preset.
    """
    if folder is None:
        return preset
    if folder.resolve().is_relative_to(ROOT):
        return folder.resolve().relative_to(ROOT).as_posix()
    return pathlib.Path(preset).as_posix()


def read_settings(folder: pathlib.Path | None) -> dict[str, Any]:
    """Returns the settings of a preset, with defaults for missing ones.

    Args:
        folder: its folder; None for a published preset, which has the defaults.

    Raises:
        ValueError: if the file of the settings is damaged.
    """
    if folder is None or not (folder / SETTINGS_FILE).is_file():
        return DEFAULT_SETTINGS
    settings = read_json(inside(folder, SETTINGS_FILE))
    if not isinstance(settings, dict) or not set(settings) <= set(DEFAULT_SETTINGS):
        raise ValueError(
            f"{folder / SETTINGS_FILE} is damaged: it must have no other keys than "
            f"{sorted(DEFAULT_SETTINGS)}. Received: {settings!r:.200}."
        )
    return DEFAULT_SETTINGS | settings


def check_files(folder: pathlib.Path) -> None:
    """Validates the configurations in a folder, before anything is built.

    Raises:
        FileNotFoundError: if there is no `config.json`.
        ValueError: if a file is not JSON, or names other things than classes of known packages.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            "`preset` must be a folder with a KerasHub preset. "
            f"Received: {folder}, which has no config.json."
        )
    for path in sorted(folder.glob("*.json")):
        content = read_json(inside(folder, path.name))
        if path.name == "config.json":
            check_config(content, path)
        elif path.name != tokenizers.CONFIG:
            check_no_code(content, path)
    read_settings(folder)
    tokenizers.read(folder)


def load_backbone(folder: pathlib.Path) -> keras.Model:
    """Returns the backbone of a KerasHub preset with its weights, in float32.

    Raises:
        ValueError: if a file is damaged, or the weights are not those of the configuration.
    """
    path = inside(folder, "config.json")
    config = read_json(path)
    cls = resolve(config) if isinstance(config, dict) and "class_name" in config else None
    import keras_hub

    if not isinstance(cls, type) or not issubclass(cls, keras_hub.models.Backbone):
        raise ValueError(f"{path} must be the configuration of a backbone of KerasHub.")
    arrays = [array for file in _weights(folder) for array in check_hdf5(file, file).values()]
    shapes = [shape for shape, _ in arrays]
    check_config(config, path, shapes)
    sharded = (folder / "model.weights.json").is_file()
    name = "model.weights.json" if sharded else "model.weights.h5"
    try:
        with budget(shapes, folder):
            inner = {**config["config"], "dtype": "float32"}
            backbone = keras.saving.deserialize_keras_object({**config, "config": inner})
            backbone.load_weights(str(inside(folder, name)))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{folder} cannot be loaded: {reason(error)}.") from error
    _check_dtypes(backbone, arrays, folder)
    return backbone


def is_keras_preset(folder: pathlib.Path) -> bool:
    """Returns whether a folder has the format of KerasHub, not one that KerasHub converts."""
    path = folder / "config.json"
    content = read_json(inside(folder, path.name)) if path.is_file() else {"class_name": None}
    return not isinstance(content, dict) or "class_name" in content or "model_type" not in content


def load_published(source: str | pathlib.Path) -> tuple[keras.Model, keras.layers.Layer]:
    """Returns the backbone and the tokenizer of a published preset.

    Args:
        source: a name as of KerasHub, or a folder in the format of Transformers.

    Raises:
        ValueError: if the folder is damaged or cannot be converted.
    """
    import keras_hub

    limit = contextlib.nullcontext()
    if isinstance(source, pathlib.Path):
        for path in source.glob("*.json"):
            read_json(inside(source, path.name), tokenizers.MAX_VOCABULARY_BYTES)
        headers = [read_header(inside(source, p.name)) for p in source.glob("*.safetensors")]
        shapes = [tensor.shape for tensors, _ in headers for tensor in tensors.values()]
        limit = budget(shapes, source, elements=sum(map(math.prod, shapes)))
    try:
        with limit:
            backbone = keras_hub.models.Backbone.from_preset(str(source), dtype="float32")
        return backbone, keras_hub.tokenizers.Tokenizer.from_preset(str(source))
    except Exception as error:
        if isinstance(error, OSError) or not isinstance(source, pathlib.Path):
            raise
        raise ValueError(f"{source} cannot be converted: {reason(error)}.") from error


def _weights(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the weights files of a folder, after a check that they are inside of it."""
    files = [inside(folder, path.name) for path in sorted(folder.glob("model*.weights.h5"))]
    index = folder / "model.weights.json"
    if index.is_file():
        content = read_json(inside(folder, index.name))
        named = content.get("weight_map", {}) if isinstance(content, dict) else {}
        names = keras.tree.flatten(named)
        for name in names:
            if not isinstance(name, str) or pathlib.PurePath(name).name != name:
                raise ValueError(f"{index} must name files beside it. Received: {name!r:.200}.")
    elif not (folder / "model.weights.h5").is_file():
        raise ValueError(f"`preset` must hold model.weights.h5. Received: preset={str(folder)!r}.")
    return files


def _check_dtypes(
    backbone: keras.Model, arrays: Sequence[tuple[Sequence[int], str]], folder: pathlib.Path
) -> None:
    """Checks that arrays of a shape have the kinds of dtypes of the variables of this shape."""
    kinds = {}
    for variable in backbone.variables:
        floating = "float" in variable.dtype
        kind = "float" if floating else variable.dtype
        kinds.setdefault(tuple(variable.shape), set()).add(kind)
    for shape, kind in arrays:
        if len(shape) and kind not in kinds.get(tuple(shape), {kind}):
            raise ValueError(
                f"{folder} is damaged: its arrays must have the dtypes of the weights. "
                f"Received: {kind} of shape {shape}."
            )


def origin(
    preset: Path, folder: pathlib.Path | None, backbone: keras.Model, tokenizer: keras.layers.Layer
) -> dict[str, str]:
    """Returns the path and the checksums of an encoder, for its configuration.

    Args:
        preset: the path or the name by which the caller knows the encoder.
        folder: its folder; None for a published preset.
        backbone: its backbone.
        tokenizer: its tokenizer.
    """
    if folder is None:
        sums = published_sums(backbone, tokenizer)
    elif is_keras_preset(folder):
        sums = file_sums(folder)
    else:
        tokens = tokenizers.value_sum(tokenizer, folder)
        sums = {"sha256": _weights_sum(folder), "tokenizer_sha256": tokens}
    return {"preset": portable(preset, folder), **sums}


def file_sums(folder: pathlib.Path) -> dict[str, str]:
    """Returns the sha256 of the weights files and of the tokenizer in a folder."""
    return {"sha256": _weights_sum(folder), "tokenizer_sha256": tokenizers.file_sum(folder)}


def _weights_sum(folder: pathlib.Path) -> str:
    """Returns the sha256 of the weights files in a folder."""
    digest = hashlib.sha256()
    files = next((found for p in WEIGHTS_PATTERNS if (found := sorted(folder.glob(p)))), [])
    if not files:
        raise ValueError(
            f"`preset` must hold weights: {' or '.join(WEIGHTS_PATTERNS)}. "
            f"Received: preset={str(folder)!r}."
        )
    for path in files:
        with inside(folder, path.name).open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()


def published_sums(backbone: keras.Model, tokenizer: keras.layers.Layer) -> dict[str, str]:
    """Returns the sha256 of the values of the weights and of the tokenizer, without files."""
    return {
        "sha256": tensors.fingerprint(backbone.get_weights()),
        "tokenizer_sha256": tokenizers.value_sum(tokenizer),
    }


def check_sums(expected: Mapping[str, str], received: Mapping[str, str], preset: Any) -> None:
    """Compares the checksums in a configuration with those of an encoder.

    Args:
        expected: the checksums in the configuration.
        received: the checksums of the encoder.
        preset: the path or the name of the encoder, for the message.

    Raises:
        ValueError: if they differ.
    """
    for key, value in expected.items():
        if received[key] != value:
            raise ValueError(
                f"The text encoder's {SUMS[key]} the model was trained with. "
                f"Expected {key}={value!r:.100}. Received: {key}={received[key]}, "
                f"preset={str(preset)!r}."
            )


def check_inputs(backbone: keras.Model) -> None:
    """Checks that a backbone has the inputs of one sequence of tokens.

    Raises:
        ValueError: if it has not.
    """
    allowed = {"token_ids", "segment_ids", "padding_mask"}
    names = set(backbone.input) if isinstance(getattr(backbone, "input", None), dict) else set()
    if "token_ids" not in names or not names <= allowed:
        raise ValueError(
            "`backbone` must be a KerasHub text backbone with inputs token_ids and, at most, "
            f"segment_ids and padding_mask. Received: a {type(backbone).__name__} with inputs "
            f"{sorted(names)}."
        )


def use_exact_gelu(backbone: keras.Model) -> None:
    """Replaces the activation in the feed-forward blocks of a BERT-like backbone by the exact GELU.

    Raises:
        ValueError: if the backbone has no such blocks.
    """
    import keras_hub

    blocks = [x for x in backbone.layers if isinstance(x, keras_hub.layers.TransformerEncoder)]
    if not blocks:
        raise ValueError(
            "`activation='gelu_erf'` needs a backbone of TransformerEncoder blocks. "
            f"Received: a {type(backbone).__name__}."
        )
    for block in blocks:
        block._feedforward_intermediate_dense.activation = keras.activations.gelu
