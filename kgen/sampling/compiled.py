"""Functions of tensors, compiled once for all numbers of examples.

`tf.function` traces again when the number of rows changes. Here the specification of an argument
leaves its first dimension open from the start, so that one trace serves every batch, one example
too, and every number of steps.
"""

import functools

import tensorflow as tf

from kgen.distribution import fused


class Compiled:
    """A function of a model, compiled for each key and structure of arguments.

    Args:
        function: called with the parts of the key, then with the tensors.
        context: a function that returns the context to trace in, such as one in which the averaged
            weights stand in for the trained ones.
    """

    def __init__(self, function, context):
        self._function = function
        self._context = context
        self._traced = {}

    def forget(self):
        """Forgets what was compiled, after layers have changed."""
        self._traced = {}

    def __call__(self, *key, portable=False):
        """Returns the function of tensors that belongs to a key.

        Args:
            *key: what the compiled code depends on, such as a solver and a guidance.
            portable: for exports: XLA compiles no part of it.
        """
        identity = (*map(_identity, key), portable)
        if identity not in self._traced:

            def traced(*arguments):
                with self._context(), fused(not portable):
                    return self._function(*key, *arguments)

            self._traced[identity] = any_batch(traced)
        return self._traced[identity]


def any_batch(function):
    """Compiles a function of nested tensors, without a new trace for another number of rows.

    Args:
        function: of tensors, dictionaries of them and None.

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
    def call(*arguments):
        leaves = tf.nest.flatten(arguments)
        tensors = [tf.convert_to_tensor(leaf) for leaf in leaves if leaf is not None]
        specs = [_open(tensor) for tensor in tensors]
        key = (_structure(arguments), tuple(specs))
        if key not in compiled:
            given = [leaf is not None for leaf in leaves]

            def flat(*tensors):
                values = iter(tensors)
                leaves = [next(values) if there else None for there in given]
                return function(*tf.nest.pack_sequence_as(arguments, leaves))

            compiled[key] = tf.function(flat, input_signature=specs, autograph=False)
        return compiled[key](*tensors)

    return call


def _open(tensor):
    shape = [None, *tensor.shape[1:]] if tensor.shape.rank else tensor.shape
    return tf.TensorSpec(shape, tensor.dtype)


def _structure(arguments):
    """What tells two nested structures apart, as a value that can be hashed."""
    marked = tf.nest.map_structure(lambda leaf: leaf is not None, arguments)
    return repr(marked)


def _identity(option):
    """What tells an option from others: of a partial function its parts, if they can be hashed."""
    if not isinstance(option, functools.partial):
        return option
    parts = (option.func, option.args, tuple(sorted(option.keywords.items())))
    try:
        hash(parts)
    except TypeError:
        return option
    return parts
