"""Presets: a model as a folder that a person can read and a machine can check.

    config.json     the Keras configuration the model is rebuilt from, in safe mode: no code in it,
                    the format and the version of kgen, the sha256 of the weights
    weights.npz     the weights that sample (the averaged ones, where the model averages) by name,
                    no pickle
    text_encoder_*  the files of a text encoder, if the model has one that lies in no shared folder

Floating weights are stored as float16 by default, half the size and enough for sampling. A preset
is for use and for fine-tuning; the state of a training (optimizer, seeds) belongs to `.keras`
files, which `kgen.load_model` opens with the same care, and to `kgen.callbacks.Resume`.

A preset is replaced in one step, when `config.json` is: it names its weights by their sum. They lie
beside as `.next-weights.npz` until then, and take their place after it, so that a preset is whole
at every moment. What a file from a stranger may do is said in `docs/security.md`.
"""

import contextlib
import json
import pathlib
import re
import shutil

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
from kgen.version import __version__

FORMAT = 1  # of the folder; a preset that does not say has the first
DTYPES = ("bfloat16", "float16", "float32", "float64", "mixed_bfloat16", "mixed_float16")


def save_preset(model, directory, dtype="float16", *, text_encoder=None):
    """Writes `model` to the folder `directory`.

    Args:
        model: a kgen model.
        directory: the folder; created if missing.
        dtype: type of the stored floating weights, `"float16"` or `"float32"`. Statistics that are
            too large for it are stored as float32.
        text_encoder: None, and the files of a text encoder are written into the folder; or the
            plain name of a folder beside `directory` that several presets share, which is written
            if it is not there.

    Raises:
        ValueError: for another `dtype`, if a weight is not finite, or too large for it, if a layer
            is quantised, or if the shared folder holds another text encoder.
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
    arrays = _arrays(model, dtype)
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
        text.write_text(_readable(content), encoding="utf-8")
        _settle(directory)
        for path in (unfinished, text):
            flush(path)
        unfinished.replace(weights)
        text.replace(directory / CONFIG)
        flush(directory)
        weights.replace(directory / WEIGHTS)
    finally:
        for path in (unfinished, text):
            path.unlink(missing_ok=True)
    _remove_unnamed(directory, config)


def _arrays(model, dtype):
    """The weights of a model by name, in the type in which they are stored."""
    arrays = {}
    # Not in `averaged()` of the model, which knows nothing of the averages of models inside it.
    averages = {id(v): a for part in _generative_models(model) for v, a in part.averages.pairs()}
    for index, variable in enumerate(_stored(model)):
        value = averages.get(id(variable), variable)
        value = tf.convert_to_tensor(value.value).numpy()
        if tf.as_dtype(value.dtype).is_floating:  # bfloat16 too, which is no type of numpy's
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


def _settle(directory):
    """Ends a replacement that was interrupted after its one step."""
    if not ((directory / NEXT).is_file() and (directory / CONFIG).is_file()):
        return
    with contextlib.suppress(ValueError):  # a damaged one, which is replaced anyhow
        expected = _content(directory / CONFIG, MAX_CONFIG_BYTES).get("sha256")
        if sha256(directory / NEXT) == expected:
            (directory / NEXT).replace(directory / WEIGHTS)


def _remove_unnamed(directory, config):
    """Removes the text encoders that the folder held for the model before."""
    named = json.dumps(config)
    for folder in directory.iterdir():
        own = re.fullmatch(r"text_encoder_[0-9a-f]{12}|\.partial-text_encoder", folder.name)
        if own and folder.is_dir() and not folder.is_symlink() and folder.name not in named:
            shutil.rmtree(folder)


def _readable(value, indent=0):
    """JSON, in which what fits into a line of 100 characters is on one."""
    line = json.dumps(value)
    if not isinstance(value, (dict, list)) or indent + len(line) <= 100:
        return line
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {_readable(v, indent + 1)}" for key, v in value.items()]
    else:
        items = [_readable(v, indent + 1) for v in value]
    margin = "\n" + " " * indent
    return line[0] + ",".join(f"{margin} {item}" for item in items) + margin + line[-1]


def from_preset(
    directory, dtype="float32", *, text_encoder=None, max_config_bytes=MAX_CONFIG_BYTES
):
    """Rebuilds the model that `model.save_to_preset(directory)` wrote.

    Nothing that its files say makes code run, a network be asked, or a folder be opened but the
    preset's own and a text encoder that lies beside it. `docs/security.md` says what is checked.

    Args:
        directory: the folder; the name of a preset, one of `kgen.list_presets()`; or
            `"hf://owner/name"`, perhaps with `@revision`, to fetch one from the hub.
        dtype: Keras policy that takes the place of that of training: `"float32"`,
            `"mixed_bfloat16"` where the hardware is good at it, or `"bfloat16"` or `"float16"`,
            which halve the memory too. Outputs of networks stay float32, and so do text encoders.
        text_encoder: None; or the folder of the model's text encoder, or its name in a hub, in
            place of the one that the preset names. Its sums must be those of the preset.
        max_config_bytes: largest size of a configuration.

    Returns:
        The model, with the stored weights also in the place of the averaged ones.

    Raises:
        ImportError: if the hub is asked for and `huggingface_hub` is not installed.
        TypeError: if `directory` is no path.
        FileNotFoundError: if the folder or one of its two files is missing.
        ValueError: if a file is damaged or unsafe, if the format is a newer one, or if the weights
            do not fit the model.
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
    content = _content(path, max_config_bytes)
    if hub and content.get("sha256") is None:
        raise ValueError(f"{path} must name the sha256 of its weights, since it is of a hub.")
    config = content["model"]
    folders = (directory, directory.absolute().parent)
    with (
        ArrayArchive(_weights(directory, content.get("sha256"))) as archive,
        opened(path, folders, text_encoder),
    ):
        shapes = [header[0] for header in archive.headers.values()]
        check_config(config, path, shapes)
        with budget(shapes, archive.path, copies=3):  # a weight, its average, the outer model's
            model = _rebuilt(in_dtype(config, dtype), path)
        fill(_stored(model), archive)
    for part in _generative_models(model):
        part.averages.reset()
    return model


def _weights(directory, expected):
    """The file of weights whose sum the configuration names."""
    if expected is None:  # as in presets of the first version
        return inside(directory, WEIGHTS)
    for name in (WEIGHTS, NEXT):
        if (directory / name).is_file() and sha256(path := inside(directory, name)) == expected:
            return path
    raise ValueError(f"{directory / WEIGHTS} is damaged: its sha256 is not the one in {CONFIG}.")


def _content(path, limit):
    """What a configuration file holds."""
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


def _check_format(content, path):
    """Refuses a preset that a later version of kgen has written in another way."""
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


def _rebuilt(config, path):
    """The model of a configuration, without its weights."""
    try:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except OSError:
        raise
    except Exception as error:  # a configuration can make Keras raise nearly anything
        raise ValueError(f"{path} cannot be rebuilt: {reason(error)}.") from error
    if not hasattr(model, "averages"):
        raise ValueError(
            f"{path} must be the configuration of a model of kgen. "
            f"Received: one of a {type(model).__name__}."
        )
    return model


def _stored(model):
    """Everything but the averages, which take the place of the weights, and the seeds."""
    left_out = set()
    for part in _generative_models(model):
        left_out.update(id(v) for v in [*part.averages.weights, *part.seeds.weights])
    return [v for v in model.weights if id(v) not in left_out]


def _generative_models(model):
    """The model and the models inside it, such as the autoencoder of a latent diffusion model."""
    return [layer for layer in layers_of(model) if hasattr(layer, "averages")]


def _without_training(config):
    """The configuration without the optimizers of the model and the models inside it."""
    if isinstance(config, dict):
        return {k: _without_training(v) for k, v in config.items() if k != "compile_config"}
    if isinstance(config, list):
        return [_without_training(item) for item in config]
    return config
