"""The variational autoencoder.

    log p(x) >= E_q(z|x)[ log p(x|z) ] - KL(q(z|x) || p(z))                            (the ELBO)

    loss = reconstruction + beta KL,        reconstruction = -log p(x | z),  z = mean + std eps

both sums over the event and means over the batch, in nats. `objective="iwae"` minimises the
negative of a tighter bound with K samples,

    loss = -log 1/K sum_k w_k,              w_k = p(x | z_k) p(z_k) / q(z_k | x).

The signal-to-noise ratio of its gradient for the encoder vanishes as K grows. Two estimators
without the score function of q have less variance:

    "sticking_the_landing"   for the ELBO: log q is evaluated with its parameters held fixed, since
                             the expectation of the score function is zero
    "doubly_reparameterised" for the bound with K samples, for which the first is biased: also
                             multiplies the gradient through z_k by (w_k / sum_j w_j)^2

References:
  Kingma and Welling (2013), https://arxiv.org/abs/1312.6114, eq. 3 and 10.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 18-19.
  Higgins et al. (2017), https://openreview.net/forum?id=Sy2fzU9gl (beta); Burgess et al. (2018),
  https://arxiv.org/abs/1804.03599, eq. 8 (capacity).
  Burda et al. (2015), https://arxiv.org/abs/1509.00519, eq. 8 (IWAE).
  Roeder et al. (2017), https://arxiv.org/abs/1703.09194; Tucker et al. (2018),
  https://arxiv.org/abs/1810.04152, eq. 8 (the two estimators; section 3: the bias).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from kgen import likelihoods
from kgen.checks import check_count, check_data, check_one_of, check_positive
from kgen.conditioning import Conditioner
from kgen.density import importance
from kgen.density.importance import log_mean_exp, tile, tile_condition
from kgen.gaussian import Gaussian
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.models.generative_model import images_of, mask_of
from kgen.priors import StandardNormal
from kgen.sampling import ancestral
from kgen.serialization import serializable
from kgen.tensors import expand_to
from kgen.types import Batch, Condition, LikelihoodName, Network, TensorLike

OBJECTIVES = ("elbo", "iwae")
GRADIENTS = ("reparameterised", "sticking_the_landing", "doubly_reparameterised")


@serializable
class VAE(EncoderDecoder):
    """Variational autoencoder.

    Args:
        encoder: network from data `[B, ...]` to `[B, ..., 2 C]`, the mean and the log standard
            deviation of q(z|x).
        decoder: network from codes `[B, ..., C]` to the parameters of the likelihood (logits for
            `"bernoulli"`). Networks may be of any kind and, with a conditioner, receive the
            condition too; see `kgen.models.encoder_decoder`.
        likelihood: `"bernoulli"` (data in [0, 1]), `"gaussian"` or `"logistic_mixture"` (data in
            [-1, 1]), or an object of `kgen.likelihoods`.
        prior: None for N(0, I), or an object of `kgen.priors`.
        conditioner: None, or a `Conditioner` for a model of p(x | c) with the prior p(z), whose
            batches are `{"images": x, <batch_key of the conditioner>: ...}`.
        data_shape: shape of an example; None for that of the encoder's input.
        beta: weight of the KL.
        warm_up: number of training steps over which `beta` (or `capacity`) grows from 0; not used
            by `"iwae"`, whose bound has no KL term.
        capacity: None, or C in nats, for the KL term `beta |KL - C|`.
        num_samples: number of samples of z per example in training and evaluation.
        objective: `"elbo"` or `"iwae"`.
        gradient: estimator of the gradient: `"reparameterised"`, or for `"elbo"`
            `"sticking_the_landing"`, or for `"iwae"` `"doubly_reparameterised"`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is x, or a dictionary of `"images"` and, where there is a conditioner, its entry. Where
    values are missing, the entry `"mask"` is 1 for those that are known and 0 for others, which the
    encoder sees as 0 and the likelihood leaves out; it has the shape of the data, or broadcasts to
    it.

    Raises:
        TypeError: if an option is not a number, or `prior` is not an object of `kgen.priors`.
        ValueError: if the networks are not compatible, an option is unknown or out of range, or
            options are not compatible.

    Example:
        >>> from kgen.networks import mlp
        >>> vae = VAE(mlp((28, 28, 1), (2 * 8,)), mlp((8,), (28, 28, 1)))
        >>> vae.generate(3, seed=0).shape
        (3, 28, 28, 1)
    """

    gaussian_code = True
    takes_mask = True

    def __init__(
        self,
        encoder: Network,
        decoder: Network,
        likelihood: LikelihoodName | Any = "bernoulli",
        *,
        prior: Any = None,
        conditioner: Conditioner | None = None,
        data_shape: Sequence[int] | None = None,
        beta: float = 1.0,
        warm_up: int = 0,
        capacity: float | None = None,
        num_samples: int = 1,
        objective: Literal["elbo", "iwae"] = "elbo",
        gradient: Literal[
            "reparameterised", "sticking_the_landing", "doubly_reparameterised"
        ] = "reparameterised",
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"data_shape": data_shape, "ema_decay": ema_decay, "seed": seed, **kwargs}
        options |= {"likelihood": likelihoods.get(likelihood), "conditioner": conditioner}
        super().__init__(encoder, decoder, **options)
        check_one_of("objective", objective, OBJECTIVES)
        check_one_of("gradient", gradient, GRADIENTS)
        if gradient == "doubly_reparameterised" and objective != "iwae":
            raise ValueError('`gradient="doubly_reparameterised"` needs `objective="iwae"`.')
        if gradient == "sticking_the_landing" and objective == "iwae":
            raise ValueError(
                '`gradient="sticking_the_landing"` is biased for `objective="iwae"`: use '
                '"doubly_reparameterised".'
            )
        if objective == "iwae" and (beta != 1 or capacity is not None):
            raise ValueError(
                '`beta` must be 1 and `capacity` None for `objective="iwae"`, which has no KL. '
                f"Received: beta={beta}, capacity={capacity}."
            )
        check_positive("beta", beta, zero=True)
        check_positive("warm_up", warm_up, zero=True)
        check_count("num_samples", num_samples)
        if capacity is not None:
            check_positive("capacity", capacity)
        self.prior = StandardNormal(self.latent_shape) if prior is None else prior
        self.validate_prior(self.prior)
        self.beta = beta
        self.warm_up = warm_up
        self.capacity = capacity
        self.num_samples = num_samples
        self.objective = objective
        self.gradient = gradient
        self.start_averaging()

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        return ("iwae",) if self.objective == "iwae" else ("reconstruction", "kl")

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `reconstruction` and the weighted `kl` (or `iwae`), `[B]`, in nats."""
        seed = self.seeds.next() if seed is None else seed
        if self.objective == "iwae":
            x, cond = images_of(batch), self.condition_of(batch, training)
            k, mask = self.num_samples, mask_of(batch)
            return {"iwae": -log_mean_exp(self.log_weights(x, seed, k, training, cond, mask))}
        reconstruction, kl = self._elbo(batch, training, seed)
        weight = self.warm_up_done(training)
        if self.capacity is not None:
            return {
                "reconstruction": reconstruction,
                "kl": self.beta * tf.abs(kl - weight * self.capacity),
            }
        return {"reconstruction": reconstruction, "kl": self.beta * weight * kl}

    def bound_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `reconstruction` and `prior`, `[B]`, in nats; their sum is the negative ELBO."""
        seed = self.seeds.next() if seed is None else seed
        reconstruction, kl = self._elbo(batch, training, seed)
        return {"reconstruction": reconstruction, "prior": kl}

    def _elbo(
        self, batch: Batch, training: bool, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns -E log p(x|z) and KL(q || p), means over `num_samples` samples."""
        x, cond, k = images_of(batch), self.condition_of(batch, training), self.num_samples
        q = _repeat(self._posterior(x, cond, training), k)
        z = q.sample(seed)
        output = self.run_decoder(z, tile_condition(cond, k), training)
        reconstruction = -self.log_prob(output, tile(x, k), tile(mask_of(batch), k))
        if self.gradient == "sticking_the_landing":
            kl = _fixed(q).log_prob(z) - self.prior.log_prob(z, self._posterior)
        else:
            kl = self.prior.kl(q, z, self._posterior)
        mean = [tf.reduce_mean(tf.reshape(term, [k, -1]), axis=0) for term in (reconstruction, kl)]
        return mean[0], mean[1]

    def log_weights(
        self,
        x: TensorLike,
        seed: tf.Tensor,
        num_samples: int,
        training: bool = False,
        cond: Condition = None,
        mask: TensorLike | None = None,
    ) -> tf.Tensor:
        """Returns log importance weights log p(x, z_k) - log q(z_k | x), with the trained weights.

        Args:
            x: data `[B, ...]`.
            seed: an int32 pair.
            num_samples: number K of samples per example.
            training: whether layers such as dropout are active.
            cond: the encoded condition, or None.
            mask: None, or 1 where a value of `x` is known, of the shape of `x`.

        Returns:
            float32 `[K, B]`, in nats.
        """
        x = tf.cast(x, tf.float32)
        q = _repeat(self._posterior(x, cond, training), num_samples)
        z = q.sample(seed)
        factor = []
        if self.gradient != "reparameterised":
            q = _fixed(q)
        if self.gradient == "doubly_reparameterised":
            z = _scale_gradient(z, factor)
        output = self.run_decoder(z, tile_condition(cond, num_samples), training)
        log_p = self.log_prob(output, tile(x, num_samples), tile(mask, num_samples))
        log_p += self.prior.log_prob(z, self._posterior)
        log_w = tf.reshape(log_p - q.log_prob(z), [num_samples, -1])
        factor.append(tf.reshape(tf.stop_gradient(tf.nn.softmax(log_w, axis=0)), [-1]))
        return log_w

    def generate(
        self,
        num_samples: int | None = None,
        *,
        condition: Any = None,
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> np.ndarray:
        """Generates data from codes that are drawn from the prior.

        Args:
            num_samples: number of examples; with a condition, their number per condition (1 by
                default).
            condition: for a model with a conditioner, the conditions, such as labels or prompts, or
                encoded conditions.
            temperature: factor of the prior's standard deviation, positive.
            seed: integer or None.

        Returns:
            The expected data given the codes: uint8 `[N, H, W, C]` for pictures, else float32; the
            examples of one condition are consecutive.

        Raises:
            ValueError: if `num_samples` or `temperature` is not positive, the condition is missing,
                or there is a condition but no conditioner.
        """
        check_positive("temperature", temperature)
        return ancestral.generate(self, num_samples, condition, float(temperature), seed)

    def sample_data(
        self, num_samples: int, temperature: float, seed: tf.Tensor, cond: Condition = None
    ) -> tf.Tensor:
        """Returns the expected data of codes drawn from the prior, with the trained weights.

        Args:
            num_samples: number of examples.
            temperature: factor of the prior's standard deviation.
            seed: an int32 pair.
            cond: the encoded condition `[num_samples, ...]`, or None.

        Returns:
            float32 `[num_samples, *data_shape]`.
        """
        z = self.prior.sample(num_samples, seed, self._posterior, temperature)
        return self._decode(z, cond)

    def log_likelihood(
        self, x: TensorLike, num_samples: int = 5000, *, condition: Any = None, **options: Any
    ) -> np.ndarray:
        """Estimates log p(x), or log p(x | c), by importance sampling.

        Args:
            x: data, an array `[N, ...]`.
            num_samples: number of samples per example.
            condition: for a model with a conditioner, one condition per example.
            **options: options of `kgen.density.importance.importance_log_likelihood`, such as
                `chunk`, `batch_size`, `seed`, `jit_compile` and `verbose`.

        Returns:
            A float64 array `[N]`, in nats. Its expectation is a lower bound, which is tight for
            many samples.
        """
        check_data("x", x, self.data_shape, self.likelihood)
        return importance.log_likelihood(self, x, num_samples, condition, **options)


def _repeat(q: Gaussian, k: int) -> Gaussian:
    """Repeats `q` for `k` samples of each example, `[K B, ...]`; the first B rows are `q`."""
    return q if k == 1 else Gaussian(tile(q.mean, k), tile(q.log_std, k))


def _fixed(q: Gaussian) -> Gaussian:
    """Returns `q` with the gradient of its parameters stopped."""
    return Gaussian(tf.stop_gradient(q.mean), tf.stop_gradient(q.log_std))


def _scale_gradient(z: tf.Tensor, factor: list[tf.Tensor]) -> tf.Tensor:
    """Returns `z` with its gradient multiplied by `factor[0]`, `[B]`, which is set later."""

    @tf.custom_gradient
    def gate(z: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.identity(z), lambda upstream: upstream * expand_to(factor[0], upstream)

    return gate(z)
