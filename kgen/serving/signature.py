"""Functions of a SavedModel: one graph each, arguments by position or by name."""

import inspect

import tensorflow as tf


def served(specs):
    """Decorates a function of `*arguments` as a `tf.function` of the named tensors `specs`.

    Example:
        >>> @served([tf.TensorSpec([], tf.int32, "first"), tf.TensorSpec([], tf.int32, "second")])
        ... def difference(*arguments):
        ...     return arguments[0] - arguments[1]
        >>> int(difference(5, 3)), int(difference(second=5, first=3))
        (2, -2)
    """
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(spec.name, either) for spec in specs])

    def decorate(function):
        function.__signature__ = signature  # TensorFlow inspects it
        return tf.function(function, input_signature=specs)

    return decorate
