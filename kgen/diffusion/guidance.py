"""Guidance: functions from denoisers to denoisers.

Classifier-free guidance replaces the conditional estimate c and the unconditional one u by

    x_hat = (1 - s) u + s c = u + s (c - u)

s = 0 is unconditional sampling, s = 1 conditional sampling, and s > 1 amplifies the effect of the
condition. In terms of scores this is the gradient of log p(z) + s log p(cond given z). The
estimates of x, eps and the score are affine in one another, so the same combination holds for each.
A negative prompt replaces the empty condition: the estimate moves away from it. Autoguidance
replaces u by the estimate of a weaker model with the same condition.

Classifier guidance adds the gradient of a classifier of noisy data. By Tweedie's formula, x_hat =
(z + sigma^2 score) / alpha, so a term of the score is multiplied by sigma^2 / alpha in x_hat:

    x_hat = c + s (sigma^2 / alpha) grad_z log p(cond given z)

The argument `guidance` of a model's `generate` is a function `guidance(denoise, cond, null_cond,
scale) -> denoise(z, t)`, such as `functools.partial(classifier_free, rescale=0.7)` or the result of
`autoguidance` or `classifier_guidance`. `generate` draws examples in batches: a guidance that
depends on the example has a method `of_examples(indices)`, which returns the guidance for a batch.

References:
  classifier_free: Ho and Salimans (2022), https://arxiv.org/abs/2207.12598, eq. 6 (w is s - 1).
  rescale: Lin et al. (2023), https://arxiv.org/abs/2305.08891, eqs. 15 and 16.
  interval: Kynkaanniemi et al. (2024), https://arxiv.org/abs/2404.07724, eq. 3.
  autoguidance: Karras et al. (2024), https://arxiv.org/abs/2406.02507, eq. 4.
  classifier_guidance: Dhariwal and Nichol (2021), https://arxiv.org/abs/2105.05233, algorithm 1.
  dynamic_threshold: Saharia et al. (2022), https://arxiv.org/abs/2205.11487, section 2.3.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kgen.checks import check_interval
from kgen.diffusion.process import GaussianDiffusion
from kgen.tensors import expand_to
from kgen.types import ConditionalDenoise, Denoise, Guidance, TensorLike


def condition(denoise: ConditionalDenoise, cond: Any) -> Denoise:
    """Binds a condition: turns `denoise(z, t, cond)` into a function of `z` and `t`.

    Example:
        >>> bound = condition(lambda z, t, cond: z + cond, 2.0)
        >>> bound(1.0, 0.5)
        3.0
    """

    def conditioned(z: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return denoise(z, t, cond)

    return conditioned


def classifier_free(
    denoise: ConditionalDenoise,
    cond: Any,
    null_cond: Any,
    scale: TensorLike,
    *,
    rescale: float = 0.0,
    interval: Sequence[float] | None = None,
    threshold: float | None = None,
) -> Denoise:
    """Applies classifier-free guidance to a conditional denoiser.

    Args:
        denoise: a function of `z`, `t` and a condition.
        cond: the condition.
        null_cond: the empty condition, or a negative one.
        scale: the guidance scale, a number or a scalar tensor. 1 is exactly the conditional
            denoiser, without a call of the unconditional one; 0 is exactly the unconditional one.
        rescale: from 0 (off) to 1, how far the guided estimate is rescaled to the standard
            deviation of the conditional one; avoids overexposed pictures at large scales.
        interval: None, or a pair of times (low, high) outside of which there is no guidance.
        threshold: None, or the quantile of `dynamic_threshold`, which is applied to the guided
            estimate, but not where there is no guidance: at a scale of 1 or outside of `interval`.

    Returns:
        A function `denoise(z, t) -> x_hat`.

    Raises:
        ValueError: if `rescale` or `threshold` is out of range, or `interval` is not two times in
            ascending order.

    Example:
        >>> guided = classifier_free(lambda z, t, cond: z + cond, 2.0, 1.0, scale=3.0)
        >>> guided(tf.zeros([1]), 0.5).numpy().tolist()
        [4.0]
    """
    _check(rescale, interval)
    if threshold is not None:
        check_interval("threshold", threshold, "(0, 1]")

    def guided(z: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        conditional = denoise(z, t, cond)

        def combine() -> tf.Tensor:
            x_hat = _extrapolate(denoise(z, t, null_cond), conditional, scale)
            if rescale:
                ratio = _spread(conditional) / _spread(x_hat)
                x_hat *= rescale * expand_to(ratio, x_hat) + 1 - rescale
            return x_hat if threshold is None else _limited(x_hat, threshold)

        off = tf.equal(tf.cast(scale, tf.float32), 1)
        if interval is None:
            return tf.cond(off, lambda: conditional, combine)
        low, high = (tf.cast(end, tf.float32) for end in interval)
        at = tf.cast(t, tf.float32)
        off |= (at < low) | (at > high)  # of each example, where each has a time of its own

        def where_on() -> tf.Tensor:
            return tf.where(expand_to(off, conditional), conditional, combine())

        return tf.cond(tf.reduce_all(off), lambda: conditional, where_on)

    return guided


def autoguidance(weak: ConditionalDenoise) -> Guidance:
    """Makes a guidance that moves away from the estimate of a weaker model of the same data.

    Args:
        weak: a function of `z`, `t` and a condition: the denoiser of a smaller model, or of one
            that was trained for fewer steps.

    Returns:
        A function `guidance(denoise, cond, null_cond, scale)`; `null_cond` is not used.

    Example:
        >>> guide = autoguidance(lambda z, t, cond: 0.0 * z)
        >>> guide(lambda z, t, cond: z + cond, 1.0, None, 2.0)(tf.zeros([1]), 0.5).numpy().tolist()
        [2.0]
    """

    def guidance(
        denoise: ConditionalDenoise, cond: Any, null_cond: Any, scale: TensorLike
    ) -> Denoise:
        def guided(z: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
            strong = denoise(z, t, cond)
            off = tf.equal(tf.cast(scale, tf.float32), 1)
            return tf.cond(
                off, lambda: strong, lambda: _extrapolate(weak(z, t, cond), strong, scale)
            )

        return guided

    return guidance


def classifier_guidance(
    process: GaussianDiffusion, log_prob: Callable[..., tf.Tensor], labels: TensorLike | None = None
) -> Guidance:
    """Makes a guidance from a classifier of noisy data.

    Args:
        process: a `GaussianDiffusion`.
        log_prob: a function of `z` `[B, ...]` and a scalar `t` that returns `[B]`, the log
            probability of the wanted class of each example: for a Keras classifier, its log-softmax
            at the labels.
        labels: None; or an array with one row for each example of `generate`, of which `log_prob`
            then receives the rows of its batch as a third argument.

    Returns:
        A function `guidance(denoise, cond, null_cond, scale)`, for conditional and unconditional
        models; the scale 0 is off.

    Example:
        >>> from kgen.diffusion import CosineLogSNR, GaussianDiffusion
        >>> process = GaussianDiffusion(CosineLogSNR())
        >>> guide = classifier_guidance(process, lambda z, t: tf.reduce_sum(z, axis=-1))
        >>> guided = guide(lambda z, t, cond: z, None, None, 1.0)
        >>> guided(tf.zeros([1, 1]), 0.5).numpy().round(3)  # sigma^2 / alpha = sqrt(1/2)
        array([[0.707]], dtype=float32)
    """
    if labels is not None:
        labels = tf.convert_to_tensor(labels)

    def toward(*labels: tf.Tensor) -> Guidance:
        def guidance(
            denoise: ConditionalDenoise, cond: Any, null_cond: Any, scale: TensorLike
        ) -> Denoise:
            def guided(z: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
                x_hat = denoise(z, t, cond)
                with tf.GradientTape() as tape:
                    tape.watch(z)
                    total = tf.reduce_sum(log_prob(z, t, *labels))
                gradient = tape.gradient(total, z)
                alpha, sigma = process.alpha_sigma(tf.cast(t, z.dtype))
                step = tf.cast(scale, z.dtype) * sigma**2 / alpha
                return x_hat + expand_to(step, z) * gradient

            return guided

        return guidance

    if labels is None:
        return toward()
    of_all = toward(labels)
    of_all.of_examples = lambda indices: toward(tf.gather(labels, indices))
    return of_all


def dynamic_threshold(denoise: Denoise, quantile: float = 0.995) -> Denoise:
    """Limits estimates to [-1, 1] by dynamic thresholding, for large guidance scales.

    Each estimate is clipped to [-s, s] and divided by s, where s is a quantile of its absolute
    values, but at least 1.

    Args:
        denoise: a function of `z` and `t`, for data in [-1, 1].
        quantile: in (0, 1]; 1 scales without clipping.

    Returns:
        A function `denoise(z, t) -> x_hat`.

    Raises:
        ValueError: if `quantile` is not in (0, 1].

    Example:
        >>> dynamic_threshold(lambda z, t: 3.0 * z, 1.0)(tf.constant([[1.0, -0.5]]), 0.5).numpy()
        array([[ 1. , -0.5]], dtype=float32)
    """
    check_interval("quantile", quantile, "(0, 1]")

    def thresholded(z: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return _limited(denoise(z, t), quantile)

    return thresholded


def clip(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clips the estimates of a denoiser to the range of the data.

    Args:
        denoise: a function of `z` and `t`.
        low: smallest value of the data.
        high: largest value of the data.

    Returns:
        A function `denoise(z, t) -> x_hat`.

    Example:
        >>> clip(lambda z, t: 3.0 * z)(tf.constant([[1.0, -0.25]]), 0.5).numpy().tolist()
        [[1.0, -0.75]]
    """

    def clipped(z: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(denoise(z, t), low, high)

    return clipped


def _limited(x_hat: tf.Tensor, quantile: float) -> tf.Tensor:
    sizes = tf.sort(tf.reshape(tf.abs(x_hat), [tf.shape(x_hat)[0], -1]), axis=-1)
    rank = tf.cast(tf.shape(sizes)[1] - 1, tf.float32) * quantile
    limit = tf.maximum(sizes[:, tf.cast(tf.math.ceil(rank), tf.int32)], 1)
    limit = expand_to(limit, x_hat)
    return tf.clip_by_value(x_hat, -limit, limit) / limit


def _extrapolate(base: tf.Tensor, estimate: tf.Tensor, scale: TensorLike) -> tf.Tensor:
    s = tf.cast(scale, estimate.dtype)
    return (1 - s) * base + s * estimate


def _spread(x: tf.Tensor) -> tf.Tensor:
    """Returns the standard deviation over the event, `[B]`."""
    return tf.math.reduce_std(tf.reshape(x, [tf.shape(x)[0], -1]), axis=-1)


def _check(rescale: float, interval: Sequence[float] | None) -> None:
    check_interval("rescale", rescale, "[0, 1]")
    if interval is not None and not (np.size(interval) == 2 and interval[0] < interval[1]):
        raise ValueError(
            f"`interval` must be None or two times, low < high. Received: interval={interval}."
        )
