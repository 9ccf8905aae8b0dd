"""The denoiser: a network with its forward process and its prediction type.

Solvers and guidance are independent of networks and prediction types; they use a function

    denoise(z, t) -> x_hat,    an estimate of E[x given z_t = z]

A `Denoiser` is such a function. It calls the network with the log-SNR and with the noisy value
scaled to unit variance, z / sqrt(d^2 alpha^2 + sigma^2) for data of standard deviation d, and
converts the output to an estimate of the clean data (`kgen.diffusion.prediction`). d is sigma_data
for the prediction "edm", for which this scaling is EDM's c_in, and 1 otherwise. Under the scaling
"vp" the variance is one already; under the others the input of the network is the same as under
"vp".

The loss is the denoising term of the bound, weighted:

    1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l)|^2 ] / p(t),    z_t = alpha_t x + sigma_t eps

`z`, `x` and `x_hat` are `[B, ...]`, `t` is a scalar or `[B]`; the network receives the log-SNR as
float32 `[B]`.

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 17 (the loss).
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1 (c_in).
"""

from collections.abc import Sequence
from typing import Any

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
from kgen.diffusion.times import TrainingTimes, draw_noise_levels
from kgen.diffusion.weighting import error_factor
from kgen.serialization import serializable
from kgen.symbolic import call
from kgen.tensors import expand_to, normal, sum_event
from kgen.types import Condition, Network, Prediction, TensorLike, Weighting


@serializable
class Denoiser(keras.layers.Layer):
    """A layer that estimates the clean data from a noisy value and its time.

    It is a Keras layer, so that the weights of the network and of a learned schedule are tracked,
    saved and loaded.

    Args:
        network: a network of any kind (`kgen.symbolic`), called as `network(z, log_snr, cond)` with
            `log_snr` of shape `[B]`, float32; returns a tensor of the shape of `z`.
        process: a `GaussianDiffusion`.
        prediction: what the network predicts, a key of
            `kgen.diffusion.prediction.PREDICTION_TYPES`.
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

    def __init__(
        self,
        network: Network,
        process: GaussianDiffusion,
        prediction: Prediction = "v",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        check_one_of("prediction", prediction, PREDICTION_TYPES)
        if not isinstance(process, GaussianDiffusion):
            raise TypeError(f"`process` must be a GaussianDiffusion. Received: {process!r}.")
        self.network = network
        self.process = process
        self.prediction = prediction
        # Keras tracks attributes of the layer itself, not those of the process.
        learned = isinstance(process.schedule, keras.layers.Layer)
        self.learned_schedule = process.schedule if learned else None
        self.built = True

    def __call__(
        self, z: TensorLike, t: TensorLike, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Returns x_hat; see the class.

        This overrides the call of a Keras layer, which would cast float64 values to the layer's
        dtype and reject a Python number for the time.
        """
        z = tf.convert_to_tensor(z)
        dtype = tf.float64 if z.dtype == tf.float64 else tf.float32
        t = tf.cast(t, dtype) if tf.is_tensor(t) else tf.convert_to_tensor(t, dtype)
        t = tf.reshape(t, [-1]) if t.shape.rank > 1 else t
        log_snr = tf.broadcast_to(self.process.log_snr(t), tf.shape(z)[:1])
        return tf.cast(self.x_hat_of(tf.cast(z, dtype), log_snr, cond, training), z.dtype)

    def call(
        self, z: TensorLike, t: TensorLike, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Returns x_hat, as calling the layer does."""
        return self(z, t, cond, training)

    def x_hat_of(
        self, z: tf.Tensor, log_snr: tf.Tensor, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Returns x_hat at a log-SNR `[B]`, of `z` `[B, ...]` in float32 or float64."""
        output = self.output_of(z, log_snr, cond, training)
        alpha, sigma = self.process.alpha_sigma_of(expand_to(log_snr, z))
        return to_x(self.prediction, output, z, alpha, sigma)

    def output_of(
        self, z: tf.Tensor, log_snr: tf.Tensor, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Returns the output of the network at noisy values.

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

    def score(self, z: TensorLike, t: TensorLike, cond: Condition = None) -> tf.Tensor:
        """Returns the score, the gradient of log q(z_t) at `z`, `[B, ...]`."""
        return self.process.score(z, self(z, t, cond), t)

    def score_of(
        self, z: tf.Tensor, log_snr: tf.Tensor, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Returns the score at a log-SNR `[B]`, computed from the estimate of the noise."""
        alpha, sigma = (expand_to(a, z) for a in self.process.alpha_sigma_of(log_snr))
        output = self.output_of(z, log_snr, cond, training)
        return -to_eps(self.prediction, output, z, alpha, sigma) / sigma

    def error(
        self,
        x: tf.Tensor,
        eps: tf.Tensor,
        log_snr: tf.Tensor,
        cond: Condition = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Returns the squared error |eps - eps_hat|^2 at one noise level per example.

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
        self,
        x: tf.Tensor,
        cond: Condition,
        seeds: Sequence[tf.Tensor],
        *,
        weighting: Weighting = "elbo",
        times: TrainingTimes = "stratified",
        training: bool = False,
    ) -> tf.Tensor:
        """Returns the training loss of each example: the weighted denoising term.

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
