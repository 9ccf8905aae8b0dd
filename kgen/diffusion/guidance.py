"""Guidance: functions from denoisers to denoisers.

Classifier-free guidance replaces the conditional estimate c and the unconditional one u by

    x_hat = (1 - s) u + s c = u + s (c - u)

with s = 1 plain conditional sampling, s = 0 unconditional, s > 1 toward what the condition adds. In
terms of scores this follows log p(z) + s log p(cond given z). The estimates of x, eps and the score
are affine in one another, so the same combination holds for each. A negative prompt takes the place
of the empty condition: the estimate moves away from it.

Reference:
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598, eq. 6 (their w is s - 1).
"""

import tensorflow as tf


def condition(denoise, cond):
    """Binds a condition: `denoise(z, t, cond)` becomes a function of `z` and `t`.

    Example:
        >>> bound = condition(lambda z, t, cond: z + cond, 2.0)
        >>> bound(1.0, 0.5)
        3.0
    """

    def conditioned(z, t):
        return denoise(z, t, cond)

    return conditioned


def classifier_free(denoise, cond, null_cond, scale):
    """Makes a guided denoiser of a conditional one.

    Args:
        denoise: a function of `z`, `t` and a condition.
        cond: the condition.
        null_cond: the empty condition, or a negative one.
        scale: a number or a scalar tensor. 1 is the conditional denoiser, bit for bit, and its
            unconditional branch is not run; 0 is the unconditional one, bit for bit.

    Returns:
        A function `denoise(z, t) -> x_hat`.

    Example:
        >>> guided = classifier_free(lambda z, t, cond: z + cond, 2.0, 1.0, scale=3.0)
        >>> guided(tf.zeros([1]), 0.5).numpy().tolist()
        [4.0]
    """

    def guided(z, t):
        conditional = denoise(z, t, cond)

        def combine():
            unconditional = denoise(z, t, null_cond)
            s = tf.cast(scale, conditional.dtype)
            return (1 - s) * unconditional + s * conditional

        return tf.cond(tf.equal(scale, 1), lambda: conditional, combine)

    return guided
