"""What a server's client may ask for: every bound that Python checks, in the graph of an export.

A client that may choose the number of steps holds a thread for as long as it likes, so an export
has two more bounds, which the exporter chooses and which are part of its graphs:

    max_steps   of a solver, in one call
    max_batch   examples in one call

A call outside of a bound ends in `InvalidArgumentError` before anything is computed.
"""

import contextlib
import contextvars
import dataclasses

import tensorflow as tf

from kgen.checks import check_count


@dataclasses.dataclass(frozen=True)
class Limits:
    """The bounds of an export.

    Args:
        max_steps: largest number of solver steps.
        max_batch: largest number of examples.

    Raises:
        TypeError: if one is no number.
        ValueError: if one is not at least 1.
    """

    max_steps: int = 1000
    max_batch: int = 64

    def __post_init__(self):
        check_count("max_steps", self.max_steps)
        check_count("max_batch", self.max_batch)


_CHOSEN = contextvars.ContextVar("limits", default=None)


@contextlib.contextmanager
def chosen(limits):
    """Within it, functions are made with these bounds."""
    token = _CHOSEN.set(limits)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def now_chosen():
    """The bounds that functions are made with."""
    return _CHOSEN.get() or Limits()


def checked(tensors, *checks):
    """The tensors, which are there only once all checks have passed.

    Args:
        tensors: a nested structure of tensors.
        *checks: pairs of a boolean scalar and a message.
    """
    asserts = [tf.debugging.Assert(passed, [message]) for passed, message in checks]
    with tf.control_dependencies(asserts):
        return tf.nest.map_structure(tf.identity, tensors)


def count(name, value, most):
    """The check that a whole number is at least 1 and at most `most`."""
    return (value >= 1) & (value <= most), f"`{name}` must be at least 1 and at most {most}."


def batch(name, tensor, most):
    """The check that there are 1 to `most` examples."""
    size = tf.shape(tensor)[0]
    return (size >= 1) & (size <= most), f"`{name}` must be 1 to {most} examples."


def same(name, tensor, size, one=False):
    """The check that there is one row for each example, or one for all where that is allowed."""
    rows = tf.shape(tensor)[0]
    fits = (rows == size) | (rows == 1) if one else rows == size
    return fits, f"`{name}` must be one for each example{' or one for all' if one else ''}."


def finite(name, tensor):
    """The check that no number is infinite or NaN."""
    return tf.reduce_all(tf.math.is_finite(tensor)), f"`{name}` must be finite."


def within(name, tensor, low, high):
    """The check that all numbers are in `[low, high]`, which NaN is not."""
    inside = tf.reduce_all((tensor >= low) & (tensor <= high))
    return inside, f"`{name}` must be in [{low:g}, {high:g}]."
