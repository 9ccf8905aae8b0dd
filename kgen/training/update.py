"""One update of the weights on one device: what Keras documents, and what is skipped.

What several devices need beyond this is in `kgen.training.replicas`.
"""

import tensorflow as tf


def apply_gradients(optimizer, gradients, variables, skip_above=None, then=lambda: None):
    """Applies gradients, unless they are to be skipped.

    Args:
        optimizer: a Keras optimizer, built. With `gradient_accumulation_steps` its weights move
            once in so many calls.
        gradients: a list of tensors, scaled by `optimizer.scale_loss`; None where there is none.
        variables: the Keras variables they belong to.
        skip_above: None, or the norm above which, or if it is not finite, nothing is done.
        then: a function that is called after the weights have moved.

    Returns:
        A boolean tensor, whether the gradients were skipped.
    """
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    gradients, variables = [g for g, _ in pairs], [v for _, v in pairs]
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    waits = inner is not optimizer or bool(inner.gradient_accumulation_steps)

    def move():
        before = tf.identity(inner.iterations)
        optimizer.apply(gradients, variables)
        if not waits:
            then()
            return tf.constant(True)
        # Accumulated or scaled gradients do not move the weights in every call.
        return tf.cond(inner.iterations > before, lambda: _true(then), lambda: tf.constant(False))

    if skip_above is None:
        move()
        return tf.constant(False)
    norm = tf.linalg.global_norm(gradients) / optimizer.scale_loss(tf.constant(1.0))
    good = go_on = norm < skip_above  # NaN is not less than anything
    if inner is not optimizer:  # sees itself to what is not finite, and lowers the scale
        go_on |= ~optimizer.check_finite(gradients)
    tf.cond(go_on, move, lambda: tf.constant(False))
    return ~good


def _true(effect):
    effect()
    return tf.constant(True)
