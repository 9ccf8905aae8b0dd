"""Presets: a model as a folder that is readable by people and checked when it is opened.

    config.json     the Keras configuration from which the model is rebuilt, in safe mode, without
                    code; the format, the versions of kgen and Keras, the sha256 of the weights
    weights.npz     the weights used for sampling (the averaged ones if the model averages its
                    weights) by name, without pickle
    text_encoder_*  the files of a text encoder, if the model has one that is not in a shared folder

Floating-point weights are stored as float16 by default, half the size of float32 and precise enough
for sampling. A preset is meant for use and for fine-tuning. The state of a training (optimizer,
seeds) is stored by `.keras` files, which `kgen.load_model` opens with the same checks, and by
`kgen.callbacks.Resume`.

A preset is replaced atomically, when its `config.json`, which names its weights by their sha256, is
replaced. Until then the new weights are in the file `.next-weights.npz`, and they are renamed
afterwards, so that the preset is complete at every moment. `docs/security.md` describes what files
from other people can and cannot do.

References:
  Safe mode: https://keras.io/api/models/model_saving_apis/model_saving_and_loading
  npz: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import contextlib
import json
import pathlib
import re
import shutil
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_path
from kgen.files.archives import ArrayArchive
from kgen.files.budget import budget
from kgen.files.configs import check_config
from kgen.files.folders import flush, inside, opened, sha256
from kgen.files.policies import in_dtype
from kgen.files.text import MAX_CONFIG_BYTES, read_json, reason
from kgen.files.weights import cast, fill, name_of
from kgen.layer_tree import check_savable, layers_of
from kgen.preset_names import CONFIG, HUB, NEXT, WEIGHTS, list_presets, locate
from kgen.types import Path
from kgen.version import __version__

FORMAT = 1  # format of the folder; presets that do not state one have format 1
DTYPES = ("bfloat16", "float16", "float32", "float64", "mixed_bfloat16", "mixed_float16")


def save_preset(
    model: keras.Model,
    directory: Path,
    dtype: Literal["float16", "float32"] = "float16",
    *,
    text_encoder: str | None = None,
) -> None:
    """Writes a model to a folder.

    Args:
        model: a kgen model.
        directory: the folder; created if missing.
        dtype: type of the stored floating-point weights, `"float16"` or `"float32"`. Statistics
            that are too large for it are stored as float32.
        text_encoder: None to write the files of a text encoder into the folder; or the name of a
            folder beside `directory` that several presets share, which is written if it is missing.

    Raises:
        TypeError: if `directory` is not a path.
        ValueError: for another `dtype`, if a weight is not finite or too large for `dtype`, if a
            layer is quantised, or if the shared folder holds another text encoder.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"`dtype` must be 'float16' or 'float32'. Received: dtype={dtype!r}.")
    directory = check_path("directory", directory)
    if text_encoder is not None and pathlib.PurePath(str(text_encoder)).name != text_encoder:
        raise ValueError(
            "`text_encoder` must be None or the plain name of a folder beside the preset. "
            f"Received: text_encoder={text_encoder!r}."
        )
    check_savable(model)
    arrays = _named_arrays(model, dtype)
    directory.mkdir(parents=True, exist_ok=True)
    parts = [layer for layer in layers_of(model) if hasattr(layer, "save_beside")]
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(part.save_beside(directory, text_encoder))
        config = _without_training(keras.saving.serialize_keras_object(model))
    stamp = {"kgen": __version__, "keras": keras.__version__}
    weights, text = directory / NEXT, directory / f".partial-{CONFIG}"
    unfinished = directory / f".partial-{WEIGHTS}"
    try:
        np.savez_compressed(unfinished, **arrays)
        content = {
            "format": FORMAT,
            "versions": stamp,
            "sha256": sha256(unfinished),
            "model": config,
        }
        text.write_text(_to_json(content), encoding="utf-8")
        _finish_replacement(directory)
        for path in (unfinished, text):
            flush(path)
        unfinished.replace(weights)
        text.replace(directory / CONFIG)
        flush(directory)
        weights.replace(directory / WEIGHTS)
    finally:
        for path in (unfinished, text):
            path.unlink(missing_ok=True)
    _remove_unused_text_encoders(directory, config)


def _named_arrays(model: keras.Model, dtype: str) -> dict[str, np.ndarray]:
    """Returns the weights of a model by name, in the type in which they are stored.

    Raises:
        ValueError: if a weight is not finite, or too large for the type.
    """
    arrays = {}
    # `model.averaged()` does not cover the averages of models inside the model.
    averages = {id(v): a for part in _generative_models(model) for v, a in part.averages.pairs()}
    for index, variable in enumerate(_stored_variables(model)):
        value = averages.get(id(variable), variable)
        value = tf.convert_to_tensor(value.value).numpy()
        if tf.as_dtype(value.dtype).is_floating:  # including bfloat16, which is not a type of NumPy
            exact, value = value, cast(value, dtype)
            if not variable.trainable and np.isinf(value).any():
                value = cast(exact, "float32")  # a statistic, such as the counts of a codebook
            if not np.isfinite(value).all():
                raise ValueError(
                    f"Weights must be finite as `dtype`. Received: dtype={dtype!r} and "
                    f"{variable.path} with NaN, infinite or too large values."
                )
        arrays[f"{index:04d}:{name_of(variable)}"] = value
    return arrays


def _finish_replacement(directory: pathlib.Path) -> None:
    """Renames the new weights, if a replacement was interrupted after its atomic step."""
    if not ((directory / NEXT).is_file() and (directory / CONFIG).is_file()):
        return
    with contextlib.suppress(ValueError):  # a damaged preset is replaced anyway
        expected = _read_config(directory / CONFIG, MAX_CONFIG_BYTES).get("sha256")
        if sha256(directory / NEXT) == expected:
            (directory / NEXT).replace(directory / WEIGHTS)


def _remove_unused_text_encoders(directory: pathlib.Path, config: dict[str, Any]) -> None:
    """Removes the text encoders in a folder that the configuration of its model does not name."""
    named = json.dumps(config)
    for folder in directory.iterdir():
        own = re.fullmatch(r"text_encoder_[0-9a-f]{12}|\.partial-text_encoder", folder.name)
        if own and folder.is_dir() and not folder.is_symlink() and folder.name not in named:
            shutil.rmtree(folder)


def _to_json(value: Any, indent: int = 0) -> str:
    """Returns JSON with each list or dictionary on one line if it fits into 100 characters."""
    line = json.dumps(value)
    if not isinstance(value, (dict, list)) or indent + len(line) <= 100:
        return line
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_to_json(v, indent + 1)}" for key, v in value.items()]
    else:
        items = [_to_json(v, indent + 1) for v in value]
    margin = "\n" + " " * indent
    return line[0] + ",".join(f"{margin} {item}" for item in items) + margin + line[-1]


def from_preset(
    directory: Path,
    dtype: Literal[
        "bfloat16", "float16", "float32", "float64", "mixed_bfloat16", "mixed_float16"
    ] = "float32",
    *,
    text_encoder: Path | None = None,
    max_config_bytes: int = MAX_CONFIG_BYTES,
) -> keras.Model:
    """Rebuilds the model that `model.save_to_preset(directory)` wrote.

    The files of the preset cannot run code, access the network, or open other folders than the
    preset and a text encoder beside it. `docs/security.md` lists the checks.

    Args:
        directory: the folder; the name of a preset, one of `kgen.list_presets()`; or
            `"hf://owner/name"`, optionally with `@revision`, to download one from the hub.
        dtype: Keras dtype policy that replaces the one of the training: `"float32"`;
            `"mixed_bfloat16"` for hardware that is fast at it; or `"bfloat16"` or `"float16"`,
            which also halve the memory. Outputs of networks and text encoders stay float32.
        text_encoder: None; or the folder of the model's text encoder, or its name in a hub, instead
            of the one that the preset names. Its sha256 sums must be those in the preset.
        max_config_bytes: largest size of a configuration in bytes.

    Returns:
        The model. Both its weights and its averaged weights are the stored weights.

    Raises:
        ImportError: for a name of the hub, if `huggingface_hub` is not installed.
        TypeError: if `directory` is not a path.
        FileNotFoundError: if the folder or one of its two files is missing.
        ValueError: if a file is damaged or unsafe, if its format is newer than this version of
            kgen, or if the weights do not fit the model.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}. Received: dtype={dtype!r}.")
    hub = isinstance(directory, str) and directory.startswith(HUB)
    directory = check_path("directory", locate(directory))
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file() and not (directory / NEXT).is_file():
            raise FileNotFoundError(
                f"`directory` must be a kgen preset, a folder with {CONFIG} and {WEIGHTS}, or one "
                f"of the names {list_presets()}. Received: {directory}, which has no {name}."
            )
    path = inside(directory, CONFIG)
    content = _read_config(path, max_config_bytes)
    if hub and content.get("sha256") is None:
        raise ValueError(f"{path} must name the sha256 of its weights, as every preset of the hub.")
    config = content["model"]
    folders = (directory, directory.absolute().parent)
    with (
        ArrayArchive(_weights_file(directory, content.get("sha256"))) as archive,
        opened(path, folders, text_encoder),
    ):
        shapes = [header[0] for header in archive.headers.values()]
        check_config(config, path, shapes)
        # Three copies: a weight, its average, and its average in an outer model.
        with budget(shapes, archive.path, copies=3):
            model = _rebuild(in_dtype(config, dtype), path)
        fill(_stored_variables(model), archive)
    for part in _generative_models(model):
        part.averages.reset()
    return model


def _weights_file(directory: pathlib.Path, expected: str | None) -> pathlib.Path:
    """Returns the file of weights with a sha256.

    Raises:
        ValueError: if no file has this sha256.
    """
    if expected is None:  # a preset of the first version
        return inside(directory, WEIGHTS)
    for name in (WEIGHTS, NEXT):
        if (directory / name).is_file() and sha256(path := inside(directory, name)) == expected:
            return path
    raise ValueError(f"{directory / WEIGHTS} is damaged: its sha256 is not the one in {CONFIG}.")


def _read_config(path: pathlib.Path, limit: int) -> dict[str, Any]:
    """Reads `config.json`, a file of at most `limit` bytes.

    Raises:
        ValueError: if the file is not the configuration of a preset, or of a newer format.
    """
    try:
        content = read_json(path, limit, "max_config_bytes")
    except ValueError as error:
        raise ValueError(
            f"{path} is not the configuration of a preset: {reason(error)}."
        ) from error
    if isinstance(content, dict):
        _check_format(content, path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f"{path} is not the configuration of a preset: it has no key 'model'.")
    return content


def _check_format(content: dict[str, Any], path: pathlib.Path) -> None:
    """Checks that this version of kgen can read the format of a preset.

    Raises:
        ValueError: if the format is newer.
    """
    number = content.get("format", 1)
    if isinstance(number, int) and 1 <= number <= FORMAT:
        return
    versions = content.get("versions")
    writer = versions.get("kgen", "unknown") if isinstance(versions, dict) else "unknown"
    raise ValueError(
        f"{path} must have a format of at most {FORMAT}, which this version of kgen, "
        f"{__version__}, reads; a newer kgen may read it. "
        f"Received: format={number!r}, written by kgen {writer}."
    )


def _rebuild(config: dict[str, Any], path: pathlib.Path) -> keras.Model:
    """Returns the model of a configuration, with initial weights.

    Raises:
        ValueError: if Keras cannot rebuild the model, or it is not a model of kgen.
    """
    try:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except OSError:
        raise
    except Exception as error:  # a configuration can make Keras raise nearly anything
        raise ValueError(f"{path} cannot be rebuilt: {reason(error)}.") from error
    if not hasattr(model, "averages"):
        raise ValueError(
            f"{path} must be the configuration of a model of kgen. "
            f"Received: that of a {type(model).__name__}."
        )
    return model


def _stored_variables(model: keras.Model) -> list[keras.Variable]:
    """Returns the variables of a model, without its averages and seeds."""
    left_out = set()
    for part in _generative_models(model):
        left_out.update(id(v) for v in [*part.averages.weights, *part.seeds.weights])
    return [v for v in model.weights if id(v) not in left_out]


def _generative_models(model: keras.Model) -> Sequence[keras.Model]:
    """Returns a model and the models inside it, such as an autoencoder."""
    return [layer for layer in layers_of(model) if hasattr(layer, "averages")]


def _without_training(config: Any) -> Any:
    """Returns a configuration without the settings of `compile`, at all levels."""
    if isinstance(config, dict):
        return {k: _without_training(v) for k, v in config.items() if k != "compile_config"}
    if isinstance(config, list):
        return [_without_training(item) for item in config]
    return config
