"""From a network to a denoiser.

Solvers and guidance know nothing of networks and prediction types; all they use is a function

    denoise(z, t) -> x_hat,    an estimate of E[x given z_t = z]

This is the one place that makes such a function of a network: it tells the network the log-SNR and
reads the clean data off the output (`kgen.diffusion.prediction`).

`z` and `x_hat` are `[B, ...]`, `t` is a scalar or `[B]`; the network receives the log-SNR as
float32 `[B]`.
"""

import tensorflow as tf

from kgen.diffusion.prediction import coefficients, to_x
from kgen.tensors import expand_to


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
        output = network(z, tf.cast(log_snr, tf.float32), cond, training=False)
        alpha, sigma = process.alpha_sigma_of(expand_to(log_snr, z))
        x_hat = to_x(prediction, tf.cast(output, dtype), tf.cast(z, dtype), alpha, sigma)
        if clip is not None:
            x_hat = tf.clip_by_value(x_hat, *clip)
        return tf.cast(x_hat, z.dtype)

    return denoise
