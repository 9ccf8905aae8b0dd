"""A model is built within what its file of weights holds: a limit on the variables it may make.

A configuration of a hundred bytes can describe a layer of a billion weights. It is not built to
find that out. TensorFlow asks here before it makes a variable; its shape is known before its
values, and must be the shape of an array in the file, not more often than the file has such arrays:

    Dense(10**9) after 8 channels -> kernel [8, 10**9] -> no such array in the file -> an error

Averages of weights, which are made anew and not read, have the shapes of the weights again. Small
variables, such as counters and seeds, may be made besides.
"""

import collections
import contextlib
import contextvars
import inspect
import math

import keras
import numpy as np
import tensorflow as tf

_SMALL = 16  # elements of a variable that needs no array in the file
_MOST_SMALL = 4096  # such variables
_INNERMOST = contextvars.ContextVar("budget", default=None)


@contextlib.contextmanager
def budget(shapes, source, copies=1, elements=0):
    """Within it, variables must have the shapes of arrays in a file.

    Initial values of weights that the file will overwrite are zeros, which are quicker to make
    than random numbers. An inner budget takes the place of an outer one.

    Args:
        shapes: shapes of the arrays in the file.
        source: the file, for the message.
        copies: how many variables there may be for an array.
        elements: of variables of other shapes together, for files whose arrays are put together or
            cut on loading.

    Raises:
        ValueError: where a variable is made that is not among them.
    """
    left = collections.Counter({tuple(s): n * copies for s, n in _counted(shapes).items()})
    rest, small, graph, key = elements, _MOST_SMALL, tf.Graph(), object()

    def create(next_creator, **kwargs):
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
                f"{source} does not fit its configuration, which asks for another weight of shape "
                f"{shape} than the file holds."
            )
        return next_creator(**kwargs)

    token = _INNERMOST.set(key)
    try:
        with tf.variable_creator_scope(create):
            yield
    finally:
        _INNERMOST.reset(token)


def _counted(shapes):
    return collections.Counter(tuple(int(n) for n in shape) for shape in shapes)


def _shape(value, graph):
    """The shape of an initial value, and whether it is still to be computed."""
    if not callable(value):
        return tuple(np.shape(value)), False
    # Keras' own functions belong to a variable that knows its shape.
    owner = inspect.getclosurevars(value).nonlocals.get("self") if _is_plain(value) else None
    if isinstance(owner, keras.Variable):
        return tuple(owner.shape), True
    try:
        with graph.as_default():  # nothing is computed
            return tuple(tf.convert_to_tensor(value()).shape), True
    except Exception:  # a user's function may need numbers
        return None, True


def _is_plain(value):
    return inspect.isfunction(value) and not inspect.iscoroutinefunction(value)
