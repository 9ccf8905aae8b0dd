"""The gate of a GEGLU feed-forward layer, in one pass.

    [a, b] = x,    y = a gelu(b) = a b Phi(b)            Phi: distribution function of N(0, 1)
    dy/da = b Phi(b),    dy/db = a (Phi(b) + b phi(b))   phi: density of N(0, 1)

Reference:
  Shazeer (2020), https://arxiv.org/abs/2002.05202, eq. 6.
"""

import math
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from kgen.distribution import fuses
from kgen.networks.passes import compiled, pays


@keras.saving.register_keras_serializable("kgen")
class GatedGELU(keras.Operation):
    """The product of the first half of the channels with the exact GELU of the second half.

    In training on a CPU the operations are compiled into one pass, in float32, and one more for the
    gradient. This is no layer, so that the places of the layers after it in a network
    (`kgen.layer_tree`), by which saved LoRAs find them, are those before it was compiled.

    Call arguments:
        x: `[B, ..., 2 C]`.

    Example:
        >>> GatedGELU()(ops.zeros((2, 6, 8))).shape
        TensorShape([2, 6, 4])
    """

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Multiplies, `[B, ..., C]`."""
        if fuses(training=True) and pays(x):
            return _in_one_pass(x)
        a, b = ops.split(x, 2, axis=-1)
        return a * ops.gelu(b, approximate=False)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        """Returns the shape of `x` with half of the channels, and its dtype."""
        return keras.KerasTensor((*x.shape[:-1], x.shape[-1] // 2), x.dtype)


@tf.custom_gradient
def _in_one_pass(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    def gradient(upstream: tf.Tensor) -> tf.Tensor:
        return compiled(_gate_gradient)(upstream, x)

    return compiled(_gate)(x), gradient


def _gate(x: tf.Tensor) -> tf.Tensor:
    a, b = tf.split(tf.cast(x, tf.float32), 2, axis=-1)
    return tf.cast(a * b * _distribution(b), x.dtype)


def _gate_gradient(upstream: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    a, b = tf.split(tf.cast(x, tf.float32), 2, axis=-1)
    below, upstream = _distribution(b), tf.cast(upstream, tf.float32)
    density = tf.exp(-0.5 * b * b) / math.sqrt(2 * math.pi)
    halves = upstream * b * below, upstream * a * (below + b * density)
    return tf.cast(tf.concat(halves, axis=-1), x.dtype)


def _distribution(b: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.math.erfc(-math.sqrt(0.5) * b)
