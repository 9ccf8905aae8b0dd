"""Variational dequantisation: learned noise that turns a density into a bound for discrete data.

The probability of discrete data x under a density p is the integral over the bin of x, of width w
in each dimension:

    P(x) = integral over [0, 1]^D of p(v(x, u)) w^D du,     v(x, u) = x + w (u - 1/2)

    log P(x) >= E_{u ~ q(u | x)} [ log p(v) - log q(u | x) ] + D log w            (Jensen)

with equality for q(u | x) = p(v) w^D / P(x), the density within the bin. The uniform q
(`"uniform"`) has log q = 0. Here q is learned, with p held fixed, by maximising the bound. For log
p training uses the bound of a diffusion model on real values, and so minimises

    E[ log q(u | x) - log p(v | z_0) ] - D log w  +  prior  +  denoising          (nats)

The noise of each value is logistic noise, squashed to its bin,

    u = sigmoid(m + s a),    a ~ Logistic(0, 1),    (m, log s) = network(x)
    log q = sum [ log f(a) - log s - log u - log(1 - u) ],    log f(a) = log F(a) + log F(-a)

where F is the sigmoid. With m = 0, s = 1 it is uniform, since the sigmoid of logistic noise is: a
network whose last layer is initialised with zeros starts at the uniform bound. A density that is
concentrated on the grey levels is narrower than a bin, and the uniform bound is then far from
tight.

References:
  Ho et al. (2019), https://arxiv.org/abs/1902.00275, section 3.1, eq. 8-11.
  Song et al. (2021), https://arxiv.org/abs/2101.09258, section 4.2 and appendix B.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from kgen.models.generative_model import GenerativeModel, images_of
from kgen.serialization import serializable
from kgen.symbolic import call, describe, output_spec, symbolic
from kgen.tensors import as_seed, split, sum_event, uniform
from kgen.types import Batch, Network, Seed, Shape, TensorLike

_MIN_LOG_SCALE = -7.0


@serializable
class VariationalDequantization(GenerativeModel):
    """Learned noise that fills the bins of discrete data, for the likelihood of a density.

    Args:
        network: a network of any kind (`kgen.symbolic`) of data `[B, ..., C]`, which returns
            `[B, ..., 2 C]`: the mean and the log scale of the noise. Zeros are uniform noise.
        density: a trained `DiffusionModel` or `ScoreModel` of pixels; its weights are not trained.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Batches are those of `density`.

    Raises:
        TypeError: if `density` is neither a `DiffusionModel` nor a `ScoreModel`.
        ValueError: if the data of `density` have no grey levels, or the network returns another
            shape.

    Example:
        >>> import keras
        >>> from kgen import DiffusionModel
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR
        >>> from kgen.networks import UNet
        >>> shape = (8, 8, 1)
        >>> unet = UNet(shape, channels=(8,), attention=(False,), blocks=1)
        >>> model = DiffusionModel(unet, GaussianDiffusion(LinearLogSNR(13.3, -8.0)))
        >>> noise = VariationalDequantization(
        ...     keras.Sequential([keras.Input(shape), keras.layers.Conv2D(2, 3, padding="same")]),
        ...     model,
        ... )
        >>> noise.compile("adam")  # then noise.fit(data)
        >>> nats = model.log_likelihood(tf.zeros([1, *shape]), num_probes=1, dequantization=noise)
        >>> nats.shape
        (1,)
    """

    def __init__(
        self,
        network: Network,
        density: keras.Model,
        *,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        if not hasattr(density, "density_terms"):
            raise TypeError(
                "`density` must be a DiffusionModel or a ScoreModel. "
                f"Received: density of type {type(density).__name__}."
            )
        if density.grey_levels is None:
            raise ValueError("`density` must have `grey_levels`. Received: a model of real values.")
        shape = density.data_shape
        expected = (*shape[:-1], 2 * shape[-1])
        output = output_spec(network, {"x": symbolic(shape)})
        if getattr(output, "shape", ())[1:] != expected:
            raise ValueError(
                f"`network` must return {expected} for data of shape {shape}. "
                f"Received: {describe({'outputs': output})}."
            )
        self.network = network
        self.density = density
        self.likelihood = density.likelihood
        self.bin_width = 2 / (density.grey_levels - 1)
        self.built = True
        self.start_averaging(self.optimized_variables)

    @property
    def data_shape(self) -> Shape:
        """Shape of an example."""
        return self.density.data_shape

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms: log q, and the bound of the density at the noisy data."""
        return ("noise", "density")

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Names of the terms of the bound."""
        return ("reconstruction", "prior", "denoising")

    @property
    def optimized_variables(self) -> list[keras.Variable]:
        """The trained variables: those of the noise, not those of the density."""
        return self.network.trainable_variables

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `noise`, log q(u | x), and `density`, a bound on -log p(v) w^D, `[B]` nats."""
        log_q, terms = self._terms(batch, training, seed)
        return {"noise": log_q, "density": tf.add_n(list(terms.values()))}

    def bound_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the terms of a bound on -log P(x), `[B]`, in nats; log q is in the first."""
        log_q, terms = self._terms(batch, training, seed)
        return {**terms, "reconstruction": terms["reconstruction"] + log_q}

    def _terms(
        self, batch: Batch, training: bool, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        seeds = split(self.seeds.next() if seed is None else seed, 3)
        x = images_of(batch)
        values, log_q = self._noisy(x, seeds[0], training)
        with self.density.averaged():
            cond = self.density.encode_condition(batch, False, seeds[1])
            terms = self.density.density_terms(values, cond, seeds[2])
        volume = tf.cast(tf.size(x[0]), tf.float32) * math.log(self.bin_width)
        return log_q, {**terms, "reconstruction": terms["reconstruction"] - volume}

    def check_batch(self, batch: Batch) -> None:
        """Validates a batch before training and evaluation, as `density` does."""
        self.density.check_batch(batch)

    def dequantize(self, x: TensorLike, seed: Seed) -> tuple[tf.Tensor, tf.Tensor]:
        """Adds the learned noise to data.

        Args:
            x: data on the grey levels, `[B, ...]`.
            seed: an integer or an int32 pair.

        Returns:
            v(x, u), of the shape of `x`, and log q(u | x), `[B]` nats.
        """
        with self.averaged():
            return self._noisy(tf.cast(x, tf.float32), as_seed(seed), False)

    def _noisy(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        output = tf.cast(call(self.network, {"x": x}, training), tf.float32)
        mean, log_scale = tf.split(output, 2, axis=-1)
        log_scale = tf.maximum(log_scale, _MIN_LOG_SCALE)
        u = uniform(tf.shape(mean), seed, 1e-6, 1 - 1e-6)
        a = tf.math.log(u) - tf.math.log1p(-u)
        logit = mean + tf.exp(log_scale) * a
        log_q = tf.math.log_sigmoid(a) + tf.math.log_sigmoid(-a) - log_scale
        log_q -= tf.math.log_sigmoid(logit) + tf.math.log_sigmoid(-logit)
        return x + self.bin_width * (tf.sigmoid(logit) - 0.5), sum_event(log_q)
