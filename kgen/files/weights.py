"""Arrays of a file as the weights of a model: of their shape, their type, and finite in it."""

import collections

import numpy as np
import tensorflow as tf


def fill(variables, archive):
    """Gives each variable its array.

    Args:
        variables: of the model, in their order.
        archive: an `ArrayArchive`, whose names are `0000:<name_of(variable)>`.

    Raises:
        ValueError: if there are others, or one has another shape or type than its variable, or a
            number that is not finite in that type.
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


def _shapes(archive, names):
    return [archive.headers[name][0] for name in names]


def _checked(array, dtype, path, name):
    """The array in the type of the weight it fills, in which it must be finite."""
    dtype = tf.as_dtype(dtype)
    if array.dtype.kind != "f" if dtype.is_floating else array.dtype != dtype.as_numpy_dtype:
        raise ValueError(
            f"{path} is damaged: its arrays must be of the types of the weights that they fill. "
            f"Received: {name} of {array.dtype} for {dtype.name}."
        )
    array = cast(array, dtype.as_numpy_dtype)
    if dtype.is_floating and not np.isfinite(array).all():
        raise ValueError(
            f"{path} is damaged: its arrays must be finite numbers in {dtype.name}. "
            f"Received: {name}."
        )
    return array


def _in_order_of(variables, names):
    """The names in the order of the variables of their names, or as they are if others are named.

    The order in which Keras lists the weights of a graph changes with the operations in it. It
    comes first all the same, as names that Keras makes up depend on what was made before.
    """
    waiting = collections.defaultdict(list)
    for name in names:
        waiting[name.partition(":")[2]].append(name)
    wanted = [name_of(variable) for variable in variables]
    if collections.Counter(wanted) != {name: len(same) for name, same in waiting.items()}:
        return names
    return [waiting[name].pop(0) for name in wanted]


def name_of(variable):
    """The name of a variable in a file."""
    return variable.path.replace("/", ".")


def cast(value, dtype):
    """An array in another type, in which large numbers may be infinite."""
    with np.errstate(over="ignore"):
        return value.astype(dtype)
