"""Presets: a model as a folder that a person can read and a machine can check.

    config.json     the Keras configuration the model is rebuilt from, in safe mode: no code in it,
                    the version of kgen, the sha256 of the weights
    weights.npz     the weights that sample (the averaged ones, where the model averages), no pickle

Floating weights are stored as float16 by default, half the size and enough for sampling. A preset
is for use and for fine-tuning; the state of a training (optimizer, seeds) belongs to `.keras`
files and to `kgen.callbacks.Resume`.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import zipfile

import keras
import numpy as np
import tensorflow as tf

CONFIG, WEIGHTS = "config.json", "weights.npz"


def save_preset(model, directory, dtype="float16"):
    """Writes `model` to the folder `directory`.

    Args:
        model: a kgen model.
        directory: the folder; created if missing.
        dtype: type of the stored floating weights, `"float16"` or `"float32"`.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"`dtype` must be 'float16' or 'float32'. Received: dtype={dtype!r}.")
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {}
    with model.averaged():
        for index, variable in enumerate(_stored(model)):
            value = tf.convert_to_tensor(variable.value).numpy()
            floating = np.issubdtype(value.dtype, np.floating)
            arrays[f"{index:04d}:{variable.path.replace('/', '.')}"] = (
                value.astype(dtype) if floating else value
            )
    np.savez_compressed(directory / WEIGHTS, **arrays)
    config = _without_training(keras.saving.serialize_keras_object(model))
    stamp = {"kgen": importlib.metadata.version("kgen"), "keras": keras.__version__}
    content = {"versions": stamp, "sha256": _sha256(directory / WEIGHTS), "model": config}
    (directory / CONFIG).write_text(json.dumps(content, indent=1))


def from_preset(directory, dtype="float32"):
    """Rebuilds the model that `model.save_to_preset(directory)` wrote.

    Args:
        directory: the folder.
        dtype: Keras policy that takes the place of a mixed-precision policy used in training:
            `"float32"`, or `"mixed_bfloat16"` where the hardware is good at it.

    Returns:
        The model, with the stored weights also in the place of the averaged ones.

    Raises:
        FileNotFoundError: if the folder or one of its two files is missing.
        ValueError: if a file is damaged or the weights do not fit the model.
    """
    directory = pathlib.Path(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"`directory` must be a kgen preset, a folder with {CONFIG} and {WEIGHTS}. "
                f"Received: {directory}, which has no {name}."
            )
    try:
        content = json.loads((directory / CONFIG).read_text())
        config, expected = content["model"], content.get("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{directory / CONFIG} is not the configuration of a preset.") from error
    if expected is not None and _sha256(directory / WEIGHTS) != expected:
        raise ValueError(
            f"{directory / WEIGHTS} is damaged: its sha256 is not the one in {CONFIG}."
        )
    model = keras.saving.deserialize_keras_object(_in_dtype(config, dtype))
    try:
        with (
            (directory / WEIGHTS).open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            arrays = [archive[key] for key in sorted(archive.files)]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{directory / WEIGHTS} is damaged or not a weights file.") from error
    variables = _stored(model)
    shapes, expected = [a.shape for a in arrays], [tuple(v.shape) for v in variables]
    if shapes != expected:
        wrong = next(
            (i for i, (a, b) in enumerate(zip(shapes, expected)) if a != b),
            min(len(shapes), len(expected)),
        )
        raise ValueError(
            f"{directory / WEIGHTS} does not fit its configuration: it has {len(shapes)} "
            f"arrays for {len(expected)} weights, and they first differ at number {wrong}."
        )
    for variable, value in zip(variables, arrays):
        variable.assign(value)
    for part in _generative_models(model):
        part.reset_averages()
    return model


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stored(model):
    """Everything but the averages, which take the place of the weights, and the seeds."""
    left_out = set()
    for part in _generative_models(model):
        left_out.update(id(v) for v in [*part.ema_weights, *part.seeds.weights])
        if part.ema_weights:
            left_out.add(id(part.ema_updates))
    return [v for v in model.weights if id(v) not in left_out]


def _generative_models(model):
    """The model and the models inside it, such as the autoencoder of a latent diffusion model."""
    return [layer for layer in model._flatten_layers() if hasattr(layer, "ema_weights")]


def _without_training(config):
    """The configuration without the optimizers of the model and the models inside it."""
    if isinstance(config, dict):
        return {k: _without_training(v) for k, v in config.items() if k != "compile_config"}
    if isinstance(config, list):
        return [_without_training(item) for item in config]
    return config


def _in_dtype(config, dtype):
    """The configuration with every mixed-precision policy replaced by `dtype`."""
    if isinstance(config, dict):
        name = (
            config.get("config", {}).get("name")
            if config.get("class_name") == "DTypePolicy"
            else ""
        )
        if isinstance(name, str) and name.startswith("mixed_"):
            return {**config, "config": {"name": dtype}}
        return {key: _in_dtype(value, dtype) for key, value in config.items()}
    if isinstance(config, list):
        return [_in_dtype(value, dtype) for value in config]
    return config
