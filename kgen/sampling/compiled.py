"""Compiled functions of tensors that are traced once for all batch sizes.

`tf.function` traces again when the batch size changes. Here the first dimension in the signature of
an argument is None from the start, so that one trace serves every batch size and number of steps.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kgen.distribution import fused, without_graph_optimizers


class Compiled:
    """A function of a model that is compiled once per key and structure of the arguments.

    Args:
        function: a function of the parts of a key, followed by tensors.
        context: a function that returns the context manager to trace in, such as one in which the
            model uses its averaged weights.
    """

    def __init__(
        self, function: Callable, context: Callable[[], contextlib.AbstractContextManager]
    ) -> None:
        self._function = function
        self._context = context
        self._traced = {}

    def forget(self) -> None:
        """Discards the compiled functions, after layers have changed."""
        self._traced = {}

    def __call__(self, *key: Any, portable: bool = False) -> Callable:
        """Returns the compiled function of tensors for a key.

        Args:
            *key: objects that the compiled code depends on, such as a solver and a guidance.
            portable: whether the graph is for an export, in which XLA compiles no part.
        """
        identity = (*map(_identity, key), portable)
        if identity not in self._traced:

            def traced(*arguments: Any) -> Any:
                with self._context(), fused(not portable):
                    return self._function(*key, *arguments)

            self._traced[identity] = any_batch(traced)
        return self._traced[identity]

    def anew(self) -> "Compiled":
        """Returns a copy without compiled functions, for a context that reads other weights."""
        return Compiled(self._function, self._context)


def any_batch(function: Callable) -> Callable:
    """Compiles a function of nested tensors, with one trace for all batch sizes.

    Args:
        function: a function whose arguments are tensors, dictionaries of tensors, or None.

    Returns:
        A function of the same arguments.

    Example:
        >>> traces = []
        >>> @any_batch
        ... def double(x):
        ...     traces.append(x.shape)
        ...     return 2 * x
        >>> [double(tf.ones([n, 3])).shape[0] for n in (2, 1, 5)], traces
        ([2, 1, 5], [TensorShape([None, 3])])
    """
    compiled = {}

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        leaves = tf.nest.flatten(arguments)
        tensors = [tf.convert_to_tensor(leaf) for leaf in leaves if leaf is not None]
        specs = [_open(tensor) for tensor in tensors]
        key = (_structure(arguments), tuple(specs))
        if key not in compiled:
            flat = _OfLeaves(function, tf.nest.map_structure(lambda v: v is not None, arguments))
            compiled[key] = tf.function(flat, input_signature=specs, autograph=False)
        with without_graph_optimizers():
            return compiled[key](*tensors)

    return call


class _OfLeaves:
    """A function of nested arguments as a function of their tensors.

    TensorFlow counts the traces of all functions that are made by one `def`, and warns of
    retracing after a few; an object is counted alone.

    Args:
        function: the function.
        given: the structure of its arguments, with True for a tensor and False for None.
    """

    def __init__(self, function: Callable, given: tuple) -> None:
        self.function = function
        self.given = given

    def __call__(self, *tensors: tf.Tensor) -> Any:
        values = iter(tensors)
        fill = tf.nest.map_structure(lambda there: next(values) if there else None, self.given)
        return self.function(*fill)


def _open(tensor: tf.Tensor) -> tf.TensorSpec:
    shape = [None, *tensor.shape[1:]] if tensor.shape.rank else tensor.shape
    return tf.TensorSpec(shape, tensor.dtype)


def _structure(arguments: tuple) -> str:
    """Returns a hashable description of a nested structure."""
    marked = tf.nest.map_structure(lambda leaf: leaf is not None, arguments)
    return repr(marked)


def _identity(option: Any) -> Any:
    """Returns a hashable identity of an option; equal `functools.partial` objects have the same."""
    if not isinstance(option, functools.partial):
        return option
    parts = (option.func, option.args, tuple(sorted(option.keywords.items())))
    try:
        hash(parts)
    except TypeError:
        return option
    return parts
