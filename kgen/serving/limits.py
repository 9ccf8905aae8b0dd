"""Bounds on the arguments of exported functions, checked in their graphs.

A call with many steps or examples occupies a server for a long time. So an export has two bounds,
which are chosen when it is written and which are part of its graphs:

    max_steps   largest number of solver steps in one call
    max_batch   largest number of examples in one call

The graphs also check what Python checks before a call, such as ranges and shapes. A call outside of
a bound raises `tf.errors.InvalidArgumentError` before anything else is computed.

A check is a pair of a boolean scalar tensor, true if the check passes, and the message otherwise.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator
from typing import Any, TypeAlias

import tensorflow as tf

from kgen.checks import check_count

Check: TypeAlias = tuple[tf.Tensor, str]
"""Whether a check passes, and the message if it does not."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The bounds of an export.

    Args:
        max_steps: largest number of solver steps in one call.
        max_batch: largest number of examples in one call.

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if an argument is not an integer of at least 1.
    """

    max_steps: int = 1000
    max_batch: int = 64

    def __post_init__(self) -> None:
        check_count("max_steps", self.max_steps)
        check_count("max_batch", self.max_batch)


_LIMITS: contextvars.ContextVar[Limits | None] = contextvars.ContextVar("limits", default=None)


@contextlib.contextmanager
def use_limits(limits: Limits) -> Iterator[None]:
    """Sets the bounds of functions that are created in a context."""
    token = _LIMITS.set(limits)
    try:
        yield
    finally:
        _LIMITS.reset(token)


def current_limits() -> Limits:
    """Returns the bounds of functions that are created now, the default ones outside of a context.

    See `use_limits`.
    """
    return _LIMITS.get() or Limits()


def with_checks(tensors: Any, *checks: Check) -> Any:
    """Adds checks to a graph.

    Args:
        tensors: a nested structure of tensors.
        *checks: the checks.

    Returns:
        The same tensors, available only after all checks have passed.
    """
    asserts = [tf.debugging.Assert(passed, [message]) for passed, message in checks]
    with tf.control_dependencies(asserts):
        return tf.nest.map_structure(tf.identity, tensors)


def count_check(name: str, value: tf.Tensor, most: int) -> Check:
    """Returns the check that an integer is in [1, `most`]."""
    return (value >= 1) & (value <= most), f"`{name}` must be at least 1 and at most {most}."


def batch_check(name: str, tensor: tf.Tensor, most: int) -> Check:
    """Returns the check that a tensor has 1 to `most` rows."""
    size = tf.shape(tensor)[0]
    return (size >= 1) & (size <= most), f"`{name}` must be 1 to {most} examples."


def rows_check(name: str, tensor: tf.Tensor, size: tf.Tensor, one: bool = False) -> Check:
    """Returns the check that a tensor has one row for each example.

    Args:
        name: name of the tensor, for the message.
        tensor: the tensor, `[B, ...]`.
        size: number of examples, an int32 scalar.
        one: whether one row for all examples is allowed too.
    """
    rows = tf.shape(tensor)[0]
    fits = (rows == size) | (rows == 1) if one else rows == size
    return fits, f"`{name}` must be one for each example{' or one for all' if one else ''}."


def finite_check(name: str, tensor: tf.Tensor) -> Check:
    """Returns the check that no value is infinite or NaN."""
    return tf.reduce_all(tf.math.is_finite(tensor)), f"`{name}` must be finite."


def range_check(name: str, tensor: tf.Tensor, low: float, high: float) -> Check:
    """Returns the check that all values are in `[low, high]`; it fails for NaN."""
    inside = tf.reduce_all((tensor >= low) & (tensor <= high))
    return inside, f"`{name}` must be in [{low:g}, {high:g}]."
