"""The variational autoencoder.

    log p(x) >= E_q(z|x)[ log p(x|z) ] - KL(q(z|x) || p(z))                            (the ELBO)

    loss = reconstruction + beta KL,        reconstruction = -log p(x | z),  z = mean + std eps

both sums over the event and means over the batch, in nats. `objective="iwae"` lowers the tighter
bound of K samples in its place,

    loss = -log 1/K sum_k w_k,              w_k = p(x | z_k) p(z_k) / q(z_k | x).

Its gradient for the encoder has a signal that vanishes as K grows. Two estimators without the score
function of q do better:

    "sticking_the_landing"   of the ELBO: log q is evaluated with its parameters held fixed, since
                             the expectation of the score is zero
    "doubly_reparameterised" of the bound of K samples, where it is not (the first would be biased):
                             also weighs the path through z_k by (w_k / sum_j w_j)^2

References:
  Kingma and Welling (2013), https://arxiv.org/abs/1312.6114, eq. 3 and 10.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 18-19.
  Higgins et al. (2017), https://openreview.net/forum?id=Sy2fzU9gl (beta); Burgess et al. (2018),
  https://arxiv.org/abs/1804.03599, eq. 8 (capacity).
  Burda et al. (2015), https://arxiv.org/abs/1509.00519, eq. 8 (IWAE).
  Roeder et al. (2017), https://arxiv.org/abs/1703.09194; Tucker et al. (2018),
  https://arxiv.org/abs/1810.04152, eq. 8 (the two estimators; section 3: the bias).
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.checks import (
    check_count,
    check_data,
    check_likelihood,
    check_networks,
    check_one_of,
    check_pictures,
    check_positive,
    check_prior,
)
from kgen.density.importance import importance_log_likelihood, log_mean_exp, tile
from kgen.gaussian import Gaussian
from kgen.models.generative_model import GenerativeModel, images_of
from kgen.priors import StandardNormal
from kgen.sampling.ancestral import compiled_samples
from kgen.serialization import serializable
from kgen.tensors import as_seed, expand_to

OBJECTIVES = ("elbo", "iwae")
GRADIENTS = ("reparameterised", "sticking_the_landing", "doubly_reparameterised")


@serializable
class VAE(GenerativeModel):
    """Variational autoencoder.

    Args:
        encoder: network `[B, ...]` -> `[B, ..., 2 C]`, mean and log standard deviation of q(z|x).
        decoder: network `[B, ..., C]` -> parameters of the likelihood (of `"bernoulli"`: logits).
        likelihood: `"bernoulli"` (data in [0, 1]), `"gaussian"` or `"logistic_mixture"` (data in
            [-1, 1]), or an object of `kgen.likelihoods`.
        prior: None for N(0, I), or an object of `kgen.priors`.
        beta: weight of the KL.
        warm_up: number of training steps over which that weight (or `capacity`) grows from 0; the
            bound of `"iwae"` has no KL to weigh, and no warm-up.
        capacity: None, or nats C: the KL's term becomes `beta |KL - C|`.
        num_samples: samples of z for each example in training and evaluation.
        objective: `"elbo"` or `"iwae"`.
        gradient: `"reparameterised"`; for `"elbo"` `"sticking_the_landing"`; for `"iwae"`
            `"doubly_reparameterised"`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        ValueError: if the networks do not fit, or an option is none of these.

    Example:
        >>> from kgen.networks import mlp
        >>> vae = VAE(mlp((28, 28, 1), (2 * 8,)), mlp((8,), (28, 28, 1)))
        >>> vae.generate(3, seed=0).shape
        (3, 28, 28, 1)
    """

    def __init__(
        self,
        encoder,
        decoder,
        likelihood="bernoulli",
        *,
        prior=None,
        beta=1.0,
        warm_up=0,
        capacity=None,
        num_samples=1,
        objective="elbo",
        gradient="reparameterised",
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        check_networks(encoder, decoder, moments=True, parameters=True)
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
        self.likelihood = likelihoods.get(likelihood)
        check_likelihood(self.likelihood, decoder, encoder.input_shape[1:])
        self.encoder = encoder
        self.decoder = decoder
        self.prior = StandardNormal(tuple(decoder.input_shape[1:])) if prior is None else prior
        check_prior(self.prior, self.latent_shape, self.data_shape, self.likelihood)
        self.beta = beta
        self.warm_up = warm_up
        self.capacity = capacity
        self.num_samples = num_samples
        self.objective = objective
        self.gradient = gradient
        self.built = True
        self.start_averaging()

    @property
    def data_shape(self):
        """Shape of an example, such as `(28, 28, 1)`."""
        return tuple(self.encoder.input_shape[1:])

    @property
    def latent_shape(self):
        """Shape of a code."""
        return tuple(self.decoder.input_shape[1:])

    @property
    def term_names(self):
        """Names of the loss terms."""
        return ("iwae",) if self.objective == "iwae" else ("reconstruction", "kl")

    def posterior(self, x, training=False):
        """The Gaussian q(z | x)."""
        return Gaussian.from_moments(self.encoder(x, training=training))

    def loss_terms(self, batch, training=False, seed=None):
        """`reconstruction` and `kl` (or `iwae`), `[B]` nats."""
        x = images_of(batch)
        seed = self.seeds.next() if seed is None else seed
        if self.objective == "iwae":
            return {"iwae": -log_mean_exp(self.log_weights(x, seed, self.num_samples, training))}
        reconstruction, kl = self._elbo(x, training, seed)
        weight = self._ramp(training)
        if self.capacity is not None:
            return {
                "reconstruction": reconstruction,
                "kl": self.beta * tf.abs(kl - weight * self.capacity),
            }
        return {"reconstruction": reconstruction, "kl": self.beta * weight * kl}

    def bound_terms(self, batch, training=False, seed=None):
        """`reconstruction` and `prior`, `[B]` nats: their sum is the negative ELBO."""
        seed = self.seeds.next() if seed is None else seed
        reconstruction, kl = self._elbo(images_of(batch), training, seed)
        return {"reconstruction": reconstruction, "prior": kl}

    def _elbo(self, x, training, seed):
        """-E log p(x|z) and KL(q || p), each a mean over `num_samples` samples."""
        k, q = self.num_samples, self.posterior(x, training)
        q = _repeat(q, k)
        z = q.sample(seed)
        reconstruction = -self.likelihood.log_prob(self.decode_parameters(z, training), tile(x, k))
        if self.gradient == "sticking_the_landing":
            kl = _fixed(q).log_prob(z) - self.prior.log_prob(z, self.posterior)
        else:
            kl = self.prior.kl(q, z, self.posterior)
        mean = [tf.reduce_mean(tf.reshape(term, [k, -1]), axis=0) for term in (reconstruction, kl)]
        return mean[0], mean[1]

    def log_weights(self, x, seed, num_samples, training=False):
        """Importance weights log p(x, z_k) - log q(z_k | x), `[K, B]` nats, K = `num_samples`."""
        x = tf.cast(x, tf.float32)
        q = _repeat(self.posterior(x, training), num_samples)
        z = q.sample(seed)
        factor = []
        if self.gradient != "reparameterised":
            q = _fixed(q)
        if self.gradient == "doubly_reparameterised":
            z = _scale_gradient(z, factor)
        log_p = self.likelihood.log_prob(
            self.decode_parameters(z, training), tile(x, num_samples)
        ) + self.prior.log_prob(z, self.posterior)
        log_w = tf.reshape(log_p - q.log_prob(z), [num_samples, -1])
        factor.append(tf.reshape(tf.stop_gradient(tf.nn.softmax(log_w, axis=0)), [-1]))
        return log_w

    def _ramp(self, training):
        """The part of the warm-up that is done, in [0, 1]."""
        if not training or not self.warm_up:
            return 1.0
        return tf.minimum(tf.cast(self.optimizer.iterations, tf.float32) / self.warm_up, 1.0)

    def decode_parameters(self, z, training=False):
        """Parameters of p(x | z)."""
        return tf.cast(self.decoder(z, training=training), tf.float32)

    def encode(self, x, seed=None):
        """Codes of data: the posterior's mean, or a sample if a seed (an int32 pair) is given."""
        q = self.posterior(x)
        return q.mean if seed is None else q.sample(seed)

    def decode(self, z):
        """Expected data `[B, ...]` of codes."""
        return self.likelihood.mean(self.decode_parameters(z))

    def reconstruct(self, x):
        """Expected data through the posterior's mean and back."""
        return self.decode(self.encode(x))

    def call(self, x, training=False):
        """The reconstruction."""
        return self.reconstruct(x)

    def generate(self, num_samples, *, temperature=1.0, seed=None):
        """Draws codes from the prior and decodes them.

        Args:
            num_samples: how many.
            temperature: factor of the prior's standard deviation, positive.
            seed: integer or None.

        Returns:
            uint8 `[num_samples, H, W, C]` where the data are pictures, else float32: expected data
            given the code.

        Raises:
            ValueError: if `num_samples` or `temperature` is not positive.
        """
        check_count("num_samples", num_samples)
        check_positive("temperature", temperature)
        step = compiled_samples(self)
        x = step(tf.constant(num_samples), tf.constant(float(temperature)), as_seed(seed))
        return likelihoods.at_the_door(self.likelihood, x).numpy()

    def sample_data(self, num_samples, temperature, seed):
        """Expected data of `num_samples` codes of the prior."""
        return self.decode(self.prior.sample(num_samples, seed, self.posterior, temperature))

    def log_likelihood(self, x, num_samples=5000, **options):
        """Estimates log p(x) by importance sampling.

        Args:
            x: data `[N, ...]`, an array.
            num_samples: samples for each example.
            **options: of `kgen.density.importance.importance_log_likelihood`, such as `chunk`,
                `batch_size`, `seed`, `jit_compile` and `verbose`.

        Returns:
            A float64 array `[N]`, in nats: a lower bound in expectation, tight for many samples.
        """
        check_data("x", x, self.data_shape, self.likelihood)
        with self.averaged():
            return importance_log_likelihood(self.log_weights, x, num_samples, **options)

    def check_batch(self, batch):
        """Checks data before training and evaluation."""
        check_pictures(batch, self.data_shape, self.likelihood)

    def export_functions(self):
        """What a SavedModel offers: `encode`, `decode`, `reconstruct` and `generate`."""
        from kgen.serving import autoencoders as serving

        return serving.autoencoder(self, generate=True), []


def _repeat(q, k):
    """`q` for `k` samples of each example, `[K B, ...]`, sample by sample."""
    return q if k == 1 else Gaussian(tile(q.mean, k), tile(q.log_std, k))


def _fixed(q):
    """`q` whose parameters take no gradient."""
    return Gaussian(tf.stop_gradient(q.mean), tf.stop_gradient(q.log_std))


def _scale_gradient(z, factor):
    """`z`, whose gradient is multiplied by `factor[0]`, `[B]`, which is known only later."""

    @tf.custom_gradient
    def gate(z):
        return tf.identity(z), lambda upstream: upstream * expand_to(factor[0], upstream)

    return gate(z)
