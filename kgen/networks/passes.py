"""Functions that XLA compiles, as parts of graphs that are otherwise TensorFlow's.

On a CPU each TensorFlow operation reads and writes all values. XLA computes several operations in
one pass. Convolutions and matrix products are left to oneDNN, which is faster than XLA.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kgen.distribution import fuses

# Values of one example from which on compiled passes are faster, including their compilation: in
# training, which makes many steps with few sizes of a batch, and elsewhere.
LARGE_IN_TRAINING, LARGE = 4 * 4 * 192, 14 * 14 * 64


def pays(x: tf.Tensor) -> bool:
    """Returns whether passes over `x`, `[B, ...]`, may be compiled and are faster then."""
    least = LARGE_IN_TRAINING if fuses(training=True) else LARGE
    return fuses() and (x.shape[1:].num_elements() or 0) >= least


def compiled(function: Callable) -> Callable:
    """Compiles a function once per shapes and dtypes of its arguments, for all networks.

    Args:
        function: a function of tensors `[B, ...]` that is defined in a module.
    """

    def call(*tensors: tf.Tensor) -> Any:
        return _of_signature(function, *((t.shape[1:], t.dtype) for t in tensors))(*tensors)

    return call


@functools.cache
def _of_signature(function: Callable, *signature: tuple) -> Callable:
    # One function per signature, since TensorFlow warns of functions that are traced often.
    return tf.function(
        function,
        [tf.TensorSpec((None, *shape), dtype) for shape, dtype in signature],
        autograph=False,
        jit_compile=True,
    )
