"""Assigning the arrays of a file to the weights of a model, checked for shape, dtype and value."""

import collections
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.files.archives import ArrayArchive
from kgen.types import Path


def fill(variables: Sequence[keras.Variable], archive: ArrayArchive) -> None:
    """Assigns the arrays of an archive to variables.

    Args:
        variables: the variables of the model, in order.
        archive: an `ArrayArchive`, whose names are `0000:<name_of(variable)>`.

    Raises:
        ValueError: if the number of arrays differs from that of the variables, or an array has
            another shape or dtype than its variable, or a number that is not finite in that dtype.
    """
    names = sorted(archive.headers)
    shapes, expected = _shapes(archive, names), [tuple(v.shape) for v in variables]
    if shapes != expected:
        names = _in_order_of(variables, names)
        shapes = _shapes(archive, names)
    if shapes != expected:
        wrong = next(
            (i for i, (a, b) in enumerate(zip(shapes, expected)) if a != b),
            min(len(shapes), len(expected)),
        )
        raise ValueError(
            f"{archive.path} does not fit its configuration: it has {len(shapes)} "
            f"arrays for {len(expected)} weights, and they first differ at number {wrong}."
        )
    for variable, name in zip(variables, names):
        variable.assign(_checked(archive.array(name), variable.dtype, archive.path, name))


def _shapes(archive: ArrayArchive, names: list[str]) -> list[tuple[int, ...]]:
    return [archive.headers[name][0] for name in names]


def _checked(array: np.ndarray, dtype: Any, path: Path, name: str) -> np.ndarray:
    """Converts an array to the dtype of its weight, in which it must be finite."""
    dtype = tf.as_dtype(dtype)
    if array.dtype.kind != "f" if dtype.is_floating else array.dtype != dtype.as_numpy_dtype:
        raise ValueError(
            f"{path} is damaged: its arrays must have the dtypes of the weights. "
            f"Received: {name} of {array.dtype} for a weight of {dtype.name}."
        )
    array = cast(array, dtype.as_numpy_dtype)
    if dtype.is_floating and not np.isfinite(array).all():
        raise ValueError(
            f"{path} is damaged: its arrays must be finite numbers in {dtype.name}. "
            f"Received: {name}."
        )
    return array


def _in_order_of(variables: Sequence[keras.Variable], names: list[str]) -> list[str]:
    """Returns the names in the order of the variables with these names, if they are the same names.

    The order in which Keras lists the weights of a functional model may change with its operations.
    The order of the file is tried first, since automatic names depend on the models that were made
    before.
    """
    waiting = collections.defaultdict(list)
    for name in names:
        waiting[name.partition(":")[2]].append(name)
    wanted = [name_of(variable) for variable in variables]
    if collections.Counter(wanted) != {name: len(same) for name, same in waiting.items()}:
        return names
    return [waiting[name].pop(0) for name in wanted]


def name_of(variable: keras.Variable) -> str:
    """Returns the name of a variable in a file."""
    return variable.path.replace("/", ".")


def cast(value: np.ndarray, dtype: Any) -> np.ndarray:
    """Converts an array to another dtype, in which large numbers may become infinite."""
    with np.errstate(over="ignore"):
        return value.astype(dtype)
