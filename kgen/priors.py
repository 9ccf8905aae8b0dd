"""Priors p(z) of a VAE.

    StandardNormal        p(z) = N(0, I)
    GaussianMixture       p(z) = sum_k w_k N(z; m_k, s_k^2), learned
    VampPrior             p(z) = 1/K sum_k q(z | u_k), the encoder at K learned pseudo-inputs u_k

A prior has `log_prob(z, posterior) -> [B]`, `sample(num, seed, posterior, temperature)` and
`kl(q, z, posterior)`, where `posterior` is the model's function x -> q(z | x). The KL from q to
N(0, I) is exact; to the others it is estimated at the sample z ~ q, log q(z) - log p(z).

Both mixtures can begin at the posteriors of data, `prior.begin_at(x, model.posterior)`: then the
learned prior starts close to where the codes of a trained model are, 1/N sum_n q(z | x_n).

References:
  Kingma and Welling (2013), https://arxiv.org/abs/1312.6114, appendix B.
  Tomczak and Welling (2018), https://arxiv.org/abs/1705.07120, eq. 9 (VampPrior).
"""

import dataclasses
import math

import keras
import tensorflow as tf

from kgen.checks import check_count, check_number
from kgen.gaussian import Gaussian, standard_normal
from kgen.serialization import serializable
from kgen.tensors import normal, split, uniform


@serializable
@dataclasses.dataclass(frozen=True)
class StandardNormal:
    """N(0, I) over codes of shape `latent_shape`."""

    latent_shape: tuple

    def log_prob(self, z, posterior=None):
        """Log density of codes `[B, ...]`, `[B]` nats."""
        return standard_normal(z).log_prob(z)

    def kl(self, q, z, posterior=None):
        """KL(q || p), exact, `[B]` nats."""
        return q.kl(standard_normal(q.mean))

    def sample(self, num, seed, posterior=None, temperature=1.0):
        """Draws `num` codes; `temperature` multiplies the standard deviation."""
        return temperature * normal(tf.stack([num, *self.latent_shape]), seed)


class _Mixture(keras.layers.Layer):
    """What the two mixtures share, given their components and their log weights."""

    def _log_weights(self):
        raise NotImplementedError

    def _components(self, posterior):
        raise NotImplementedError

    def _set_components(self, x, posterior):
        raise NotImplementedError

    def begin_at(self, x, posterior):
        """Puts the components where the posteriors of data are.

        A model that averages its weights should `averages.reset()` afterwards.

        Args:
            x: as many data as there are components, `[K, ...]`, in the range of the model.
            posterior: the model's function x -> q(z | x).

        Raises:
            ValueError: if there are more or fewer.
        """
        if len(x) != self.num_components:
            raise ValueError(
                f"`x` must hold one example for each of the {self.num_components} components. "
                f"Received: {len(x)} examples."
            )
        self._set_components(tf.cast(x, tf.float32), posterior)

    def log_prob(self, z, posterior=None):
        """Log density of codes `[B, ...]`, `[B]` nats."""
        p, size, dtype = self._components(posterior), math.prod(z.shape[1:]), z.dtype
        z, mean, log_std = (
            tf.cast(tf.reshape(a, [-1, size]), tf.float64) for a in (z, p.mean, p.log_std)
        )
        # |(z - m) / s|^2 multiplied out: no tensor [B, K, size]. In float64, since terms cancel.
        precision = tf.exp(-2 * log_std)
        square = tf.matmul(z**2, precision, transpose_b=True)
        square -= 2 * tf.matmul(z, mean * precision, transpose_b=True)
        square += tf.reduce_sum(mean**2 * precision, axis=-1)
        log_p = -0.5 * (square + tf.reduce_sum(2 * log_std + math.log(2 * math.pi), axis=-1))
        log_p += tf.cast(self._log_weights(), tf.float64)
        return tf.cast(tf.reduce_logsumexp(log_p, axis=1), dtype)

    def kl(self, q, z, posterior=None):
        """Estimate of KL(q || p) at the sample `z` of `q`, `[B]` nats."""
        return q.log_prob(z) - self.log_prob(z, posterior)

    def sample(self, num, seed, posterior=None, temperature=1.0):
        """Draws `num` codes; `temperature` multiplies the components' standard deviation."""
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
        seed: integer seed of their initial means.
    """

    def __init__(self, num_components, latent_shape, *, seed=0, **kwargs):
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

    def _log_weights(self):
        return tf.nn.log_softmax(self.logits)

    def _components(self, posterior):
        return Gaussian(tf.convert_to_tensor(self.means), tf.convert_to_tensor(self.log_stds))

    def _set_components(self, x, posterior):
        q = posterior(x)
        self.logits.assign(tf.zeros_like(self.logits))
        self.means.assign(q.mean)
        self.log_stds.assign(q.log_std)


@serializable
class VampPrior(_Mixture):
    """The mixture of the posteriors of learned pseudo-inputs, in the range of the data.

    Args:
        num_components: number of pseudo-inputs.
        input_shape: shape of one.
        mean: mean of their initial values; that of the data is a good choice.
        std: standard deviation of their initial values.
        low: least value of the data: 0 of a Bernoulli likelihood, -1 of others.
        high: their greatest value.
        seed: integer seed of their initial values.
    """

    def __init__(
        self,
        num_components,
        input_shape,
        *,
        mean=0.1,
        std=0.05,
        low=0.0,
        high=1.0,
        seed=0,
        **kwargs,
    ):
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

    def _log_weights(self):
        return tf.fill([self.num_components], -math.log(self.num_components))

    def _components(self, posterior):
        return posterior(tf.convert_to_tensor(self.pseudo_inputs))

    def _set_components(self, x, posterior):
        self.pseudo_inputs.assign(x)


@serializable
class _Interval(keras.constraints.Constraint):
    """Keeps weights in an interval."""

    def __init__(self, low, high):
        self.low = low
        self.high = high

    def __call__(self, weights):
        return keras.ops.clip(weights, self.low, self.high)
