"""From a network to a denoiser.

Solvers and guidance know nothing of networks and prediction types; all they use is a function

    denoise(z, t) -> x_hat,    an estimate of E[x given z_t = z]

This is the one place that makes such a function of a network: it shows the network the noisy value
at unit variance, z / sqrt(d^2 alpha^2 + sigma^2) for data of standard deviation d, tells it the
log-SNR, and reads the clean data off the output (`kgen.diffusion.prediction`). d is sigma_data for
EDM's prediction, whose c_in this is, and else 1. Then the variance is one already under the scaling
"vp", and under the others a network sees the same numbers as under "vp".

`z` and `x_hat` are `[B, ...]`, `t` is a scalar or `[B]`; the network receives the log-SNR as
float32 `[B]`.

Reference:
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1 (c_in).
"""

import tensorflow as tf

from kgen.diffusion.prediction import coefficients, data_std, to_x
from kgen.tensors import expand_to


def run(network, process, prediction, z, log_snr, cond, training):
    """Runs a network on a noisy value.

    Args:
        network: called as `network(z, log_snr, cond, training=...)`.
        process: a `GaussianDiffusion`.
        prediction: what the network's output means, one of `PREDICTION_TYPES`.
        z: `[B, ...]`.
        log_snr: `[B]`.
        cond: the condition, or None.
        training: whether layers such as dropout are active.

    Returns:
        The output, at least float32, `[B, ...]`.
    """
    std = data_std(prediction)
    if process.scaling != "vp" or std != 1:
        z *= tf.exp(-process.log_std_of(expand_to(log_snr, z), std))
    output = network(z, tf.cast(log_snr, tf.float32), cond, training=training)
    return tf.cast(output, tf.float64 if z.dtype == tf.float64 else tf.float32)


def denoiser(network, process, prediction, clip=None):
    """Makes a function `denoise(z, t, cond=None) -> x_hat` of a network.

    Args:
        network: called as `network(z, log_snr, cond, training=False)`, `log_snr` being `[B]`.
        process: a `GaussianDiffusion`.
        prediction: what the network's output means, one of `PREDICTION_TYPES`.
        clip: None, or a pair (low, high) to which `x_hat` is clipped.

    Returns:
        A function of `z` `[B, ...]`, `t` (scalar or `[B]`, in [0, 1]) and a condition, whose result
        has the shape and dtype of `z`.

    Raises:
        ValueError: for an unknown prediction type.

    Example:
        >>> from kgen.diffusion import CosineLogSNR, GaussianDiffusion
        >>> def network(z, log_snr, cond, training):
        ...     return tf.zeros_like(z)
        >>> denoise = denoiser(network, GaussianDiffusion(CosineLogSNR()), "x")
        >>> denoise(tf.ones([2, 3]), 0.5).shape
        TensorShape([2, 3])
    """
    coefficients(prediction, 1.0, 1.0)

    def denoise(z, t, cond=None):
        z = tf.convert_to_tensor(z)
        dtype = tf.float64 if z.dtype == tf.float64 else tf.float32
        t = tf.cast(t, dtype) if tf.is_tensor(t) else tf.convert_to_tensor(t, dtype)
        log_snr = tf.broadcast_to(process.log_snr(t), tf.shape(z)[:1])
        output = run(network, process, prediction, tf.cast(z, dtype), log_snr, cond, training=False)
        alpha, sigma = process.alpha_sigma_of(expand_to(log_snr, z))
        x_hat = to_x(prediction, output, tf.cast(z, dtype), alpha, sigma)
        if clip is not None:
            x_hat = tf.clip_by_value(x_hat, *clip)
        return tf.cast(x_hat, z.dtype)

    return denoise
