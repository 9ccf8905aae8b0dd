"""Safe loading of whole models from `.keras` files.

    config.json         the configuration from which the model is rebuilt
    metadata.json       the version of Keras
    model.weights.h5    all weights, including those of the optimizer

A `.keras` file is a zip archive of exactly these three files. It is validated, and then loaded by
Keras.
"""

import collections
import io
import pathlib
from typing import Any

import keras
import tensorflow as tf

from kgen.checks import check_path
from kgen.files.archives import Archive
from kgen.files.budget import budget
from kgen.files.configs import check_config
from kgen.files.folders import opened
from kgen.files.hdf5 import check_hdf5
from kgen.files.text import MAX_CONFIG_BYTES, parse_json, reason
from kgen.types import Path

_PARTS = ("config.json", "metadata.json", "model.weights.h5")


def load_model(
    path: Path,
    compile: bool = True,
    *,
    text_encoder: Any = None,
    max_config_bytes: int = MAX_CONFIG_BYTES,
) -> keras.Model:
    """Loads a model that `model.save("name.keras")` wrote, in safe mode.

    In contrast to `keras.saving.load_model` it makes the checks of `docs/security.md`, and it loads
    text encoders: a `.keras` file names the folder of its text encoder, which must lie beside it.

    Args:
        path: the `.keras` file.
        compile: whether to compile the model as it was when it was saved.
        text_encoder: see `kgen.from_preset`.
        max_config_bytes: largest size of the configuration in the file.

    Returns:
        A `keras.Model`.

    Raises:
        TypeError: if `path` is not a path.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or unsafe.
    """
    path = check_path("path", path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`path` must be a `.keras` file. Received: {path}, which is not a file."
        )
    if path.suffix != ".keras":
        raise ValueError(f"`path` must end in .keras. Received: {path}.")
    with Archive(path) as archive:
        others = sorted(set(archive.entries) - set(_PARTS))
        if others:
            raise ValueError(
                f"{path} is refused: it must hold only {', '.join(_PARTS)}. "
                f"Received: {others[0]!r:.200}."
            )
        text = archive.read("config.json", max_config_bytes)
        config = parse_json(text, f"config.json in {path}", max_config_bytes, "max_config_bytes")
        if "metadata.json" in archive.entries:
            parse_json(archive.read("metadata.json", 2**16), f"metadata.json in {path}")
        weights = "model.weights.h5"
        size = archive.entries[weights].file_size if weights in archive.entries else 0
        file = io.BytesIO(archive.read(weights, size))
    arrays = check_hdf5(file, f"{weights} in {path}")
    del file
    shapes = [shape for shape, _ in arrays.values()]
    with opened(path, (path.absolute().parent,), text_encoder):
        check_config(config, path, shapes)
        with budget(shapes, path):
            model = _loaded(path, compile)
    _check_kinds(model, arrays, path)
    return model


def _loaded(path: pathlib.Path, compile: bool) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=compile)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded: {reason(error)}.") from error


def _check_kinds(
    model: keras.Model, arrays: dict[str, tuple[tuple[int, ...], str]], path: pathlib.Path
) -> None:
    """Checks that every array has the shape and dtype of a weight, and none is left over."""
    kinds, counts = collections.defaultdict(set), collections.Counter()
    optimizers = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
    of_optimizers = [variable for optimizer in optimizers for variable in optimizer.variables]
    for variable in [*model.variables, *of_optimizers]:
        shape, floating = tuple(variable.shape), tf.as_dtype(variable.dtype).is_floating
        kinds[shape].add("float" if floating else variable.dtype)
        counts[shape] += 1
    for name, (shape, kind) in arrays.items():
        if shape and shape in kinds and kind not in kinds[shape]:
            raise ValueError(
                f"{path} is damaged: its arrays must have the dtypes of the weights. "
                f"Received: {name} of {kind}."
            )
        of_training = not optimizers and name.partition("/")[0].endswith("optimizer")
        counts[shape] -= not of_training
        if shape and counts[shape] < 0:
            raise ValueError(f"{path} is damaged: {name} is not a weight of its model.")
