"""The update of a training step against Keras' own, which has no replicas to think of."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.training import replicas, update
from kgen.training.replicas import global_mean

either = pytest.mark.parametrize(
    "apply_gradients", [update.apply_gradients, replicas.apply_gradients], ids=["one", "several"]
)


def optimizer(**options):
    rate = keras.optimizers.schedules.InverseTimeDecay(0.1, 1, 0.5)
    return keras.optimizers.AdamW(rate, weight_decay=0.1, global_clipnorm=1.0, **options)


@either
@pytest.mark.parametrize("steps", [None, 3], ids=["each", "accumulated"])
def test_updates_are_those_of_keras(steps, apply_gradients):
    gradients = np.random.default_rng(0).normal(size=(8, 2, 3)).astype("float32")
    ours, theirs = ([keras.Variable(np.ones(3, "float32"), name=n) for n in "ab"] for _ in "12")
    one, other = (optimizer(gradient_accumulation_steps=steps) for _ in "12")
    for made, variables in ((one, ours), (other, theirs)):
        made.build(variables)
    moved = []
    step = tf.function(
        lambda g: apply_gradients(
            one, tf.unstack(g), ours, then=lambda: tf.py_function(moved.append, [0], [])
        )
    )
    for gradient in gradients:
        step(tf.constant(gradient))
        other.apply(list(gradient), theirs)
        for v, w in zip([*ours, *one.variables], [*theirs, *other.variables], strict=True):
            np.testing.assert_allclose(v, w, atol=1e-6)
    assert len(moved) == 8 // (steps or 1)  # the averages follow what has moved, and that alone


@either
@pytest.mark.parametrize("size", [1.0, 1e30, np.inf, np.nan], ids=str)
def test_loss_scaling_sees_what_is_not_finite(size, apply_gradients):
    """The norm is that of the gradient without its scale; overflow lowers the scale, as it must."""
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=1024.0)
    variable = keras.Variable(0.0)
    scaled.build([variable])
    skipped = apply_gradients(scaled, [tf.constant(1024.0 * size)], [variable], skip_above=2.0)
    assert bool(skipped) is (size != 1)
    assert float(variable) == (-1.0 if size == 1 else 0.0)
    assert float(scaled.dynamic_scale) == (1024.0 if np.isfinite(size) else 512.0)


def test_the_mean_of_nothing_is_zero():
    assert float(global_mean(tf.zeros([0]))) == 0
    assert float(global_mean(tf.constant([1.0, 2.0, 6.0]))) == 3
