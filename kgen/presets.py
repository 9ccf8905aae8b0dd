"""Presets: a model as a folder that a person can read and a machine can check.

    config.json     the Keras configuration the model is rebuilt from, in safe mode: no code in it,
                    the format and the version of kgen, the sha256 of the weights
    weights.npz     the weights that sample (the averaged ones, where the model averages) by name,
                    no pickle

Floating weights are stored as float16 by default, half the size and enough for sampling. A preset
is for use and for fine-tuning; the state of a training (optimizer, seeds) belongs to `.keras`
files, which `load_model` opens with the same care, and to `kgen.callbacks.Resume`.
"""

import collections
import hashlib
import importlib.metadata
import json
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_path
from kgen.layer_tree import layers_of
from kgen.serialization import check_config

CONFIG, WEIGHTS = "config.json", "weights.npz"
FORMAT = 1  # of the folder; a preset that does not say has the first
DAMAGE = (  # what reading a damaged archive raises
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
DTYPES = ("bfloat16", "float16", "float32", "float64", "mixed_bfloat16", "mixed_float16")


def save_preset(model, directory, dtype="float16"):
    """Writes `model` to the folder `directory`.

    Args:
        model: a kgen model.
        directory: the folder; created if missing.
        dtype: type of the stored floating weights, `"float16"` or `"float32"`. Statistics that are
            too large for it are stored as float32.

    Raises:
        ValueError: for another `dtype`, or if a weight is not finite, or too large for it.
    """
    if dtype not in ("float16", "float32"):
        raise ValueError(f"`dtype` must be 'float16' or 'float32'. Received: dtype={dtype!r}.")
    directory = check_path("directory", directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {}
    # Not in `averaged()` of the model, which knows nothing of the averages of models inside it.
    averages = {id(v): a for part in _generative_models(model) for v, a in part.averages.pairs()}
    for index, variable in enumerate(_stored(model)):
        value = averages.get(id(variable), variable)
        value = tf.convert_to_tensor(value.value).numpy()
        if tf.as_dtype(value.dtype).is_floating:  # bfloat16 too, which is no type of numpy's
            exact, value = value, _as(value, dtype)
            if not variable.trainable and np.isinf(value).any():
                value = _as(exact, "float32")  # a statistic, such as the counts of a codebook
            if not np.isfinite(value).all():
                raise ValueError(
                    f"Weights must be finite as `dtype`. Received: dtype={dtype!r} and "
                    f"{variable.path} with NaN, infinite or too large values."
                )
        arrays[f"{index:04d}:{_name(variable)}"] = value
    config = _without_training(keras.saving.serialize_keras_object(model))
    stamp = {"kgen": importlib.metadata.version("kgen"), "keras": keras.__version__}
    # Beside the files first: what is there stays whole until there is something to replace it.
    weights, text = (directory / f".partial-{name}" for name in (WEIGHTS, CONFIG))
    try:
        np.savez_compressed(weights, **arrays)
        content = {
            "format": FORMAT,
            "versions": stamp,
            "sha256": _sha256(weights),
            "model": config,
        }
        text.write_text(_readable(content))
        weights.replace(directory / WEIGHTS)
        text.replace(directory / CONFIG)
    finally:
        weights.unlink(missing_ok=True)
        text.unlink(missing_ok=True)


def _as(value, dtype):
    with np.errstate(over="ignore"):
        return value.astype(dtype)


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


def from_preset(directory, dtype="float32"):
    """Rebuilds the model that `model.save_to_preset(directory)` wrote.

    Args:
        directory: the folder.
        dtype: Keras policy that takes the place of a mixed-precision policy used in training:
            `"float32"`, or `"mixed_bfloat16"` where the hardware is good at it.

    Returns:
        The model, with the stored weights also in the place of the averaged ones.

    Raises:
        TypeError: if `directory` is no path.
        FileNotFoundError: if the folder or one of its two files is missing.
        ValueError: if a file is damaged or unsafe, if the format is a newer one, or if the weights
            do not fit the model.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}. Received: dtype={dtype!r}.")
    directory = check_path("directory", directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(
                f"`directory` must be a kgen preset, a folder with {CONFIG} and {WEIGHTS}. "
                f"Received: {directory}, which has no {name}."
            )
    content = _content(directory / CONFIG)
    config, expected = content["model"], content.get("sha256")
    if expected is not None and _sha256(directory / WEIGHTS) != expected:
        raise ValueError(
            f"{directory / WEIGHTS} is damaged: its sha256 is not the one in {CONFIG}."
        )
    check_config(config, directory / CONFIG)
    model = _rebuilt(_in_dtype(config, dtype), directory / CONFIG)
    try:
        with (
            (directory / WEIGHTS).open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            names = sorted(archive.files)
            arrays = [archive[name] for name in names]
    except DAMAGE as error:
        raise ValueError(
            f"{directory / WEIGHTS} is damaged or not a weights file: it must be an archive of "
            "arrays, without pickled objects."
        ) from error
    if not all(a.dtype.kind in "biuf" and np.isfinite(a).all() for a in arrays):
        raise ValueError(f"{directory / WEIGHTS} is damaged: its arrays must be finite numbers.")
    variables = _stored(model)
    shapes, expected = [a.shape for a in arrays], [tuple(v.shape) for v in variables]
    if shapes != expected:
        arrays = _in_order_of(variables, names, arrays)
        shapes = [a.shape for a in arrays]
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
        part.averages.reset()
    return model


def load_model(path, compile=True):
    """Loads the model that `model.save("name.keras")` wrote, in safe mode.

    `keras.saving.load_model` does too, but says of a damaged file that it is not found.

    Args:
        path: the file.
        compile: whether the model is compiled again, if it was.

    Returns:
        The model.

    Raises:
        TypeError: if `path` is no path.
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or unsafe.
    """
    path = check_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a `.keras` file. Received: {path}, which is none.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            config = json.loads(archive.read("config.json"))
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged or not a `.keras` file.") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged, in the part {damaged}.")
    check_config(config, path)
    return keras.saving.load_model(path, compile=compile)


def _content(path):
    """What a configuration file holds."""
    try:
        content = json.loads(path.read_text())
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not the configuration of a preset: no JSON.") from error
    if isinstance(content, dict):
        _check_format(content, path)
    if not isinstance(content, dict) or "model" not in content:
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
        f"{importlib.metadata.version('kgen')}, reads; a newer kgen may read it. "
        f"Received: format={number!r}, written by kgen {writer}."
    )


def _rebuilt(config, path):
    """The model of a configuration, without its weights."""
    try:
        model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be rebuilt: {error}") from error
    if not hasattr(model, "averages"):
        raise ValueError(
            f"{path} must be the configuration of a model of kgen. "
            f"Received: one of a {type(model).__name__}."
        )
    return model


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _stored(model):
    """Everything but the averages, which take the place of the weights, and the seeds."""
    left_out = set()
    for part in _generative_models(model):
        left_out.update(id(v) for v in [*part.averages.weights, *part.seeds.weights])
    return [v for v in model.weights if id(v) not in left_out]


def _name(variable):
    return variable.path.replace("/", ".")


def _in_order_of(variables, names, arrays):
    """The arrays in the order of the variables of their names, or as they are if others are named.

    The order in which Keras lists the weights of a graph changes with the operations in it. It
    comes first all the same, as names that Keras makes up depend on what was made before.
    """
    waiting = collections.defaultdict(list)
    for name, array in zip(names, arrays):
        waiting[name.partition(":")[2]].append(array)
    wanted = [_name(variable) for variable in variables]
    if collections.Counter(wanted) != {name: len(same) for name, same in waiting.items()}:
        return arrays
    return [waiting[name].pop(0) for name in wanted]


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


def _in_dtype(config, dtype):
    """The configuration with every mixed-precision policy replaced by `dtype`."""
    if isinstance(config, dict):
        policy = config.get("config") if config.get("class_name") == "DTypePolicy" else None
        name = policy.get("name") if isinstance(policy, dict) else None
        if isinstance(name, str) and name.startswith("mixed_"):
            return {**config, "config": {"name": dtype}}
        return {key: _in_dtype(value, dtype) for key, value in config.items()}
    if isinstance(config, list):
        return [_in_dtype(value, dtype) for value in config]
    return config
