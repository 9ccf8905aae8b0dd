"""A limit on the variables that a model may create, by the arrays in its weights file.

A configuration of a hundred bytes can describe a layer of a billion weights. To reject it before
the memory is allocated, every creation of a TensorFlow variable is intercepted: the shape of the
variable, which is known before its values, must be the shape of an array in the file, and there may
be no more variables of a shape than arrays:

    Dense(10**9) after 8 channels -> kernel [8, 10**9] -> no such array in the file -> an error

Averaged weights are not read from the file, but have the shapes of the weights. A limited number of
small variables, such as counters and seeds, is allowed in addition.
"""

import collections
import contextlib
import contextvars
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_SMALL = 16  # largest number of elements of a variable that needs no array in the file
_MOST_SMALL = 4096  # largest number of such variables
_INNERMOST = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def budget(
    shapes: Iterable[Sequence[int]], source: object, copies: int = 1, elements: int = 0
) -> Iterator[None]:
    """Limits the variables that are created in a context to the shapes of the arrays in a file.

    Weights that the file will overwrite are initialised with zeros, which is faster than with
    random numbers. An inner budget replaces an outer one.

    Args:
        shapes: shapes of the arrays in the file.
        source: the file, for messages.
        copies: number of variables that are allowed per array.
        elements: total number of elements that variables of other shapes may have, for files whose
            arrays are joined or split on loading.

    Raises:
        ValueError: if a variable is created that exceeds the budget.
    """
    left = collections.Counter({tuple(s): n * copies for s, n in _counted(shapes).items()})
    rest, small, graph, key = elements, _MOST_SMALL, tf.Graph(), object()

    def create(next_creator: Callable, **kwargs: Any) -> Any:
        nonlocal rest, small
        if _INNERMOST.get() is not key:
            return next_creator(**kwargs)
        shape, lazy = _shape(kwargs.get("initial_value"), graph)
        if shape is not None and left[shape] > 0:
            left[shape] -= 1
            dtype = tf.as_dtype(kwargs.get("dtype") or tf.float32)
            if lazy and len(shape) > 1 and dtype.is_floating:
                kwargs["initial_value"] = lambda: tf.zeros(shape, dtype)
        elif shape is not None and math.prod(shape) <= _SMALL and small:
            small -= 1
        elif shape is not None and math.prod(shape) <= rest:
            rest -= math.prod(shape)
        else:
            raise ValueError(
                f"{source} does not fit its configuration, which has more weights of shape {shape} "
                "than the file has arrays."
            )
        return next_creator(**kwargs)

    token = _INNERMOST.set(key)
    try:
        with tf.variable_creator_scope(create):
            yield
    finally:
        _INNERMOST.reset(token)


def _counted(shapes: Iterable[Sequence[int]]) -> collections.Counter:
    return collections.Counter(tuple(int(n) for n in shape) for shape in shapes)


def _shape(value: Any, graph: tf.Graph) -> tuple[tuple[int, ...] | None, bool]:
    """Returns the shape of an initial value, and whether the value is not computed yet."""
    if not callable(value):
        return tuple(np.shape(value)), False
    # Keras' initial value is a closure of a variable, which has the shape.
    owner = inspect.getclosurevars(value).nonlocals.get("self") if _is_plain(value) else None
    if isinstance(owner, keras.Variable):
        return tuple(owner.shape), True
    try:
        with graph.as_default():  # only the shape is inferred
            return tuple(tf.convert_to_tensor(value()).shape), True
    except Exception:  # a user's function may need eager values
        return None, True


def _is_plain(value: Any) -> bool:
    return inspect.isfunction(value) and not inspect.iscoroutinefunction(value)
