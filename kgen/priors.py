"""Priors p(z) of a VAE.

    StandardNormal        p(z) = N(0, I)
    GaussianMixture       p(z) = sum_k w_k N(z; m_k, s_k^2), learned
    VampPrior             p(z) = 1/K sum_k q(z | u_k), the encoder at K learned pseudo-inputs u_k

A prior has the methods `log_prob(z, posterior) -> [B]`, `sample(num, seed, posterior, temperature)`
and `kl(q, z, posterior) -> [B]`, where `posterior` is the model's function x -> q(z | x). The KL to
N(0, I) is exact; to the mixtures it is estimated at a sample z ~ q as log q(z) - log p(z).

Both mixtures can be initialised at the posteriors of examples, `prior.begin_at(x,
model.posterior)`: the learned prior then starts near the distribution of the codes of a trained
model, 1/N sum_n q(z | x_n).

References:
  Kingma and Welling (2013), https://arxiv.org/abs/1312.6114, appendix B.
  Tomczak and Welling (2018), https://arxiv.org/abs/1705.07120, eq. 9 (VampPrior).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from kgen.checks import check_count, check_number
from kgen.gaussian import Gaussian, standard_normal
from kgen.serialization import serializable
from kgen.tensors import normal, split, uniform
from kgen.types import Shape, TensorLike

# The function x -> q(z | x) of a model.
Posterior: TypeAlias = Callable[[tf.Tensor], Gaussian]


@serializable
@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """The standard normal prior N(0, I) over codes of shape `latent_shape`."""

    latent_shape: tuple

    def log_prob(self, z: tf.Tensor, posterior: Posterior | None = None) -> tf.Tensor:
        """Returns the log density of codes `[B, ...]`, `[B]`, in nats."""
        return standard_normal(z).log_prob(z)

    def kl(self, q: Gaussian, z: tf.Tensor, posterior: Posterior | None = None) -> tf.Tensor:
        """Returns the exact KL(q || p), `[B]`, in nats."""
        return q.kl(standard_normal(q.mean))

    def sample(
        self,
        num: TensorLike,
        seed: tf.Tensor,
        posterior: Posterior | None = None,
        temperature: TensorLike = 1.0,
    ) -> tf.Tensor:
        """Draws `num` codes, `[num, ...]`; `temperature` multiplies the standard deviation."""
        return temperature * normal(tf.stack([num, *self.latent_shape]), seed)


class _Mixture(keras.layers.Layer):
    """Base of the two mixtures: subclasses define the components and their log weights."""

    def _log_weights(self) -> tf.Tensor:
        raise NotImplementedError

    def _components(self, posterior: Posterior | None) -> Gaussian:
        raise NotImplementedError

    def _set_components(self, x: tf.Tensor, posterior: Posterior) -> None:
        raise NotImplementedError

    def begin_at(self, x: TensorLike, posterior: Posterior) -> None:
        """Initialises the components at the posteriors of examples.

        For a model that averages its weights, call `model.averages.reset()` afterwards.

        Args:
            x: one example per component, `[K, ...]`, in the range of the model.
            posterior: the model's function x -> q(z | x).

        Raises:
            ValueError: if the number of examples is not the number of components.
        """
        if len(x) != self.num_components:
            raise ValueError(
                f"`x` must hold one example for each of the {self.num_components} components. "
                f"Received: {len(x)} examples."
            )
        self._set_components(tf.cast(x, tf.float32), posterior)

    def log_prob(self, z: tf.Tensor, posterior: Posterior | None = None) -> tf.Tensor:
        """Returns the log density of codes `[B, ...]`, `[B]`, in nats."""
        p, size, dtype = self._components(posterior), math.prod(z.shape[1:]), z.dtype
        z, mean, log_std = (
            tf.cast(tf.reshape(a, [-1, size]), tf.float64) for a in (z, p.mean, p.log_std)
        )
        # |(z - m) / s|^2 expanded, without a tensor [B, K, size]; in float64, since terms cancel.
        precision = tf.exp(-2 * log_std)
        square = tf.matmul(z**2, precision, transpose_b=True)
        square -= 2 * tf.matmul(z, mean * precision, transpose_b=True)
        square += tf.reduce_sum(mean**2 * precision, axis=-1)
        log_p = -0.5 * (square + tf.reduce_sum(2 * log_std + math.log(2 * math.pi), axis=-1))
        log_p += tf.cast(self._log_weights(), tf.float64)
        return tf.cast(tf.reduce_logsumexp(log_p, axis=1), dtype)

    def kl(self, q: Gaussian, z: tf.Tensor, posterior: Posterior | None = None) -> tf.Tensor:
        """Returns an estimate of KL(q || p) from a sample `z` of `q`, `[B]`, in nats."""
        return q.log_prob(z) - self.log_prob(z, posterior)

    def sample(
        self,
        num: TensorLike,
        seed: tf.Tensor,
        posterior: Posterior | None = None,
        temperature: TensorLike = 1.0,
    ) -> tf.Tensor:
        """Draws `num` codes, `[num, ...]`; `temperature` multiplies the components' deviation."""
        choice, noise = split(seed, 2)
        p, log_weights = self._components(posterior), tf.cast(self._log_weights(), tf.float32)
        u = uniform(tf.stack([num, tf.size(log_weights)]), choice, 1e-7, 1.0)
        k = tf.argmax(log_weights - tf.math.log(-tf.math.log(u)), axis=-1)
        mean, log_std = tf.gather(p.mean, k), tf.gather(p.log_std, k)
        return Gaussian(mean, log_std + tf.math.log(temperature)).sample(noise)


@serializable
class GaussianMixture(_Mixture):
    """A learned mixture of diagonal Gaussians.

    Args:
        num_components: number of Gaussians.
        latent_shape: shape of a code.
        seed: integer seed of the initial means.
        **kwargs: `name` of a Keras layer.
    """

    def __init__(
        self, num_components: int, latent_shape: Shape, *, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_count("num_components", num_components)
        self.num_components = num_components
        self.latent_shape = tuple(latent_shape)
        shape = (num_components, *latent_shape)
        start = keras.initializers.RandomNormal(1.0, seed=seed)
        self.logits = self.add_weight(shape=(num_components,), initializer="zeros", name="logits")
        self.means = self.add_weight(shape=shape, initializer=start, name="means")
        self.log_stds = self.add_weight(shape=shape, initializer="zeros", name="log_stds")
        self.built = True

    def _log_weights(self) -> tf.Tensor:
        return tf.nn.log_softmax(self.logits)

    def _components(self, posterior: Posterior | None) -> Gaussian:
        return Gaussian(tf.convert_to_tensor(self.means), tf.convert_to_tensor(self.log_stds))

    def _set_components(self, x: tf.Tensor, posterior: Posterior) -> None:
        q = posterior(x)
        self.logits.assign(tf.zeros_like(self.logits))
        self.means.assign(q.mean)
        self.log_stds.assign(q.log_std)


@serializable
class VampPrior(_Mixture):
    """A mixture of the posteriors of learned pseudo-inputs (VampPrior).

    Args:
        num_components: number of pseudo-inputs.
        input_shape: shape of a pseudo-input, that of an example.
        mean: mean of the initial pseudo-inputs; the mean of the data is a good choice.
        std: standard deviation of the initial pseudo-inputs.
        low: smallest value of the data: 0 for a Bernoulli likelihood, -1 for others.
        high: largest value of the data. Pseudo-inputs are kept in [low, high].
        seed: integer seed of the initial pseudo-inputs.
        **kwargs: `name` of a Keras layer.

    Raises:
        ValueError: if `num_components` is less than 1, or unless `low < high`.
    """

    def __init__(
        self,
        num_components: int,
        input_shape: Shape,
        *,
        mean: float = 0.1,
        std: float = 0.05,
        low: float = 0.0,
        high: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_count("num_components", num_components)
        check_number("low", low)
        check_number("high", high)
        if not low < high:
            raise ValueError(f"`low` must be less than `high`. Received: low={low}, high={high}.")
        self.num_components = num_components
        self.data_shape = tuple(input_shape)
        self.low = low
        self.high = high
        self.pseudo_inputs = self.add_weight(
            shape=(num_components, *input_shape),
            initializer=keras.initializers.RandomNormal(mean, std, seed=seed),
            constraint=_Interval(low, high),
            name="pseudo_inputs",
        )
        self.built = True

    def _log_weights(self) -> tf.Tensor:
        return tf.fill([self.num_components], -math.log(self.num_components))

    def _components(self, posterior: Posterior | None) -> Gaussian:
        return posterior(tf.convert_to_tensor(self.pseudo_inputs))

    def _set_components(self, x: tf.Tensor, posterior: Posterior) -> None:
        self.pseudo_inputs.assign(x)


@serializable
class _Interval(keras.constraints.Constraint):
    """A constraint that clips weights to an interval."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def __call__(self, weights: tf.Tensor) -> tf.Tensor:
        return keras.ops.clip(weights, self.low, self.high)
