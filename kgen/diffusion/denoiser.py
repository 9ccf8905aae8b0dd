"""The denoiser: a network, the process whose noise it removes, and what its output means.

Solvers and guidance know nothing of networks and prediction types; all they use is a function

    denoise(z, t) -> x_hat,    an estimate of E[x given z_t = z]

A `Denoiser` is such a function. It gives the network the noisy value at unit variance,
z / sqrt(d^2 alpha^2 + sigma^2) for data of standard deviation d, together with the log-SNR, and
reads the clean data off the output (`kgen.diffusion.prediction`). d is sigma_data for EDM's
prediction, whose c_in this is, and else 1. Under the scaling "vp" the variance is one already;
under the others a network sees the same numbers as under "vp".

The loss is the denoising term of the bound, weighted:

    1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l)|^2 ] / p(t),    z_t = alpha_t x + sigma_t eps

`z`, `x` and `x_hat` are `[B, ...]`, `t` is a scalar or `[B]`; the network receives the log-SNR as
float32 `[B]`.

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 17 (the loss).
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1 (c_in).
"""

import keras
import tensorflow as tf

from kgen.checks import check_one_of
from kgen.diffusion.prediction import (
    PREDICTION_TYPES,
    data_std,
    error_scale,
    target,
    to_eps,
    to_x,
)
from kgen.diffusion.process import GaussianDiffusion
from kgen.diffusion.times import draw_noise_levels
from kgen.diffusion.weighting import error_factor
from kgen.serialization import serializable
from kgen.symbolic import call
from kgen.tensors import expand_to, normal, sum_event


@serializable
class Denoiser(keras.layers.Layer):
    """A network that denoises the values of a process.

    A Keras layer, so that the weights of the network, and of a learned schedule, are found, saved
    and rebuilt.

    Args:
        network: a network of any kind (`kgen.symbolic`), called as `network(z, log_snr, cond)`,
            `log_snr` being float32 `[B]`; returns an array of the shape of `z`.
        process: a `GaussianDiffusion`.
        prediction: what the output of the network means, a key of `PREDICTION_TYPES`.
        **kwargs: `name` of a Keras layer.

    Call arguments:
        z: noisy values, `[B, ...]`.
        t: times in [0, 1], a scalar, `[B]` or `[B, 1, ...]`.
        cond: the condition, a dictionary of tensors `[B, ...]`, or None.
        training: whether layers such as dropout are active.

    Returns:
        x_hat, of the shape and dtype of `z`.

    Raises:
        ValueError: for an unknown prediction type.
        TypeError: if `process` is not a `GaussianDiffusion`.

    Example:
        >>> from kgen.diffusion import CosineLogSNR, GaussianDiffusion
        >>> def network(z, log_snr, cond, training):
        ...     return tf.zeros_like(z)
        >>> denoiser = Denoiser(network, GaussianDiffusion(CosineLogSNR()), "x")
        >>> denoiser(tf.ones([2, 3]), 0.5).shape
        TensorShape([2, 3])
    """

    def __init__(self, network, process, prediction="v", **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        check_one_of("prediction", prediction, PREDICTION_TYPES)
        if not isinstance(process, GaussianDiffusion):
            raise TypeError(f"`process` must be a GaussianDiffusion. Received: {process!r}.")
        self.network = network
        self.process = process
        self.prediction = prediction
        # An attribute of its own, or Keras would not find its weights inside of the process.
        learned = isinstance(process.schedule, keras.layers.Layer)
        self.learned_schedule = process.schedule if learned else None
        self.built = True

    def __call__(self, z, t, cond=None, training=False):
        """Returns x_hat; see the class.

        This takes the place of the call of a Keras layer, which would cast float64 values to the
        layer's own type and refuse a number for the time.
        """
        z = tf.convert_to_tensor(z)
        dtype = tf.float64 if z.dtype == tf.float64 else tf.float32
        t = tf.cast(t, dtype) if tf.is_tensor(t) else tf.convert_to_tensor(t, dtype)
        t = tf.reshape(t, [-1]) if t.shape.rank > 1 else t
        log_snr = tf.broadcast_to(self.process.log_snr(t), tf.shape(z)[:1])
        value = tf.cast(z, dtype)
        output = self.output_of(value, log_snr, cond, training)
        alpha, sigma = self.process.alpha_sigma_of(expand_to(log_snr, z))
        return tf.cast(to_x(self.prediction, output, value, alpha, sigma), z.dtype)

    def call(self, z, t, cond=None, training=False):
        """As calling the layer itself."""
        return self(z, t, cond, training)

    def output_of(self, z, log_snr, cond=None, training=False):
        """Runs the network.

        Args:
            z: noisy values, `[B, ...]`, float32 or float64.
            log_snr: `[B]`.
            cond: the condition or None.
            training: whether layers such as dropout are active.

        Returns:
            The output of the network, `[B, ...]`, at least float32.
        """
        std = data_std(self.prediction)
        if self.process.scaling != "vp" or std != 1:
            z *= tf.exp(-self.process.log_std_of(expand_to(log_snr, z), std))
        inputs = {"z": z, "log_snr": tf.cast(log_snr, tf.float32), "cond": cond}
        output = call(self.network, inputs, training)
        return tf.cast(output, tf.float64 if z.dtype == tf.float64 else tf.float32)

    def score(self, z, t, cond=None):
        """Returns the score, the gradient of log q(z_t) at `z`, `[B, ...]`."""
        return self.process.score(z, self(z, t, cond), t)

    def score_of(self, z, log_snr, cond=None, training=False):
        """Returns the score at a log-SNR `[B]`, without the detour over x_hat."""
        alpha, sigma = (expand_to(a, z) for a in self.process.alpha_sigma_of(log_snr))
        output = self.output_of(z, log_snr, cond, training)
        return -to_eps(self.prediction, output, z, alpha, sigma) / sigma

    def error(self, x, eps, log_snr, cond=None, training=False):
        """Returns |eps - eps_hat|^2 at one noise level for each example.

        Args:
            x: data, `[B, ...]`.
            eps: standard normal noise of the same shape.
            log_snr: `[B]`.
            cond: the condition or None.
            training: whether layers such as dropout are active.

        Returns:
            A tensor `[B]`, summed over the event.
        """
        alpha, sigma = (expand_to(a, x) for a in self.process.alpha_sigma_of(log_snr))
        output = self.output_of(alpha * x + sigma * eps, log_snr, cond, training)
        error = output - target(self.prediction, x, eps, alpha, sigma)
        return sum_event(error_scale(self.prediction, alpha, sigma) * error**2)

    def loss(
        self, x, cond, seeds, *, weighting="elbo", times="stratified", training=False
    ) -> tf.Tensor:
        """Returns the weighted denoising term of each example.

        Args:
            x: data, `[B, ...]`.
            cond: the condition or None.
            seeds: two int32 pairs, of the times and of the noise.
            weighting: a key of `kgen.diffusion.weighting.WEIGHTINGS`.
            times: a key of `kgen.diffusion.times.TIME_SAMPLERS`, `BoundSteps(T)` or
                `NoiseLevels(L)`.
            training: whether layers such as dropout are active.

        Returns:
            A tensor `[B]`, summed over the event; with the weighting `"elbo"` in nats.
        """
        log_snr, slope, density = draw_noise_levels(times, self.process, tf.shape(x)[0], seeds[0])
        error = self.error(x, normal(tf.shape(x), seeds[1]), log_snr, cond, training)
        return 0.5 * error_factor(weighting, log_snr, slope) / density * error
