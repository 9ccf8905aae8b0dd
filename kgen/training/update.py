"""The update of the weights on one device, which is skipped if the gradient is too large.

For several devices see `kgen.training.replicas`.
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor | None],
    variables: Sequence[keras.Variable],
    skip_above: float | None = None,
    then: Callable[[], None] = lambda: None,
) -> tf.Tensor:
    """Applies gradients, unless their norm is too large.

    Args:
        optimizer: a built Keras optimizer. With `gradient_accumulation_steps` it changes the
            weights once in that many calls.
        gradients: a list of tensors, scaled by `optimizer.scale_loss`; None for a variable without
            a gradient.
        variables: the Keras variables of the gradients.
        skip_above: None, or the norm above which the update is skipped. It is then also skipped if
            the norm is not finite.
        then: a function that is called after the weights have changed.

    Returns:
        A boolean tensor, whether the gradients were skipped.
    """
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    gradients, variables = [g for g, _ in pairs], [v for _, v in pairs]
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    waits = inner is not optimizer or bool(inner.gradient_accumulation_steps)

    def move() -> tf.Tensor:
        before = tf.identity(inner.iterations)
        optimizer.apply(gradients, variables)
        if not waits:
            then()
            return tf.constant(True)
        # With accumulation or loss scaling, not every call changes the weights.
        return tf.cond(inner.iterations > before, lambda: _true(then), lambda: tf.constant(False))

    if skip_above is None:
        move()
        return tf.constant(False)
    norm = tf.linalg.global_norm(gradients) / optimizer.scale_loss(tf.constant(1.0))
    good = go_on = norm < skip_above  # NaN is not less than anything
    if inner is not optimizer:  # a LossScaleOptimizer skips non-finite gradients itself
        go_on |= ~optimizer.check_finite(gradients)
    tf.cond(go_on, move, lambda: tf.constant(False))
    return ~good


def _true(effect: Callable[[], None]) -> tf.Tensor:
    """Calls a function and returns True, as a branch of `tf.cond`."""
    effect()
    return tf.constant(True)
