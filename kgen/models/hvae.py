"""The hierarchical VAE: a chain of latents, inferred from the top down.

    p(x, z_0..z_L) = p(z_0) p(z_1 | z_0) ... p(z_L | z_<L) p(x | z_0..z_L)           z_0 on top
    q(z_0..z_L | x) = q(z_0 | x) q(z_1 | z_0, x) ... q(z_L | z_<L, x)

    -ELBO = reconstruction + prior + denoising
            reconstruction   -E log p(x | z)
            prior            KL(q(z_0 | x) || p(z_0))
            denoising        sum_{l > 0} E KL(q(z_l | z_<l, x) || p(z_l | z_<l))

One pass over the data (`encoder`) makes features; then the levels are visited from the top, each
with the prior and the posterior that see the same state of what lies above it ("ladder", shared by
inference and generation). With one level this is the VAE; with a fixed linear Gaussian posterior
and latents of the data's own size it is the diffusion model.

The KL of a level counts in the loss as max(mean over the batch, `free_bits`), so that no level is
punished out of use before the ones above have learned.

References:
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 23-25 (Markovian HVAE), 58 (the three terms).
  Sonderby et al. (2016), https://arxiv.org/abs/1602.02282 (ladder VAE, top-down inference).
  Kingma et al. (2016), https://arxiv.org/abs/1606.04934, section 3.3 (free bits).
  Child (2020), https://arxiv.org/abs/2011.10650 (very deep VAE: residual state, skipped steps).
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.checks import (
    check_count,
    check_data,
    check_likelihood,
    check_pictures,
    check_positive,
    check_prior,
)
from kgen.density.importance import importance_log_likelihood, tile
from kgen.gaussian import Gaussian
from kgen.models.generative_model import GenerativeModel, images_of
from kgen.sampling.ancestral import compiled_samples
from kgen.serialization import serializable
from kgen.tensors import as_seed, split


@serializable
class HVAE(GenerativeModel):
    """Hierarchical variational autoencoder.

    Args:
        encoder: network `[B, ...]` -> features, a tensor for all levels or a list, one for each.
        levels: `GaussianLevel`s, the top one first, or other Keras layers with
            `prior(state) -> Gaussian`, `posterior(state, features) -> Gaussian` and
            `merge(state, z) -> state`. The top one has a `state_shape`: it starts from zeros.
        decoder: network from the last state to the parameters of the likelihood.
        likelihood: as of `VAE`.
        prior: p(z_0): None for that of the top level, or an object of `kgen.priors`.
        beta: weight of the KLs.
        warm_up: number of training steps over which that weight grows from 0.
        free_bits: nats of each level's KL that cost nothing more than they do.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        ValueError: if there is no level, the decoder does not fit, or an option is negative.
    """

    def __init__(
        self,
        encoder,
        levels,
        decoder,
        likelihood="bernoulli",
        *,
        prior=None,
        beta=1.0,
        warm_up=0,
        free_bits=0.0,
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        if not levels:
            raise ValueError("`levels` must hold at least one level. Received: none.")
        check_positive("beta", beta, zero=True)
        check_positive("warm_up", warm_up, zero=True)
        check_positive("free_bits", free_bits, zero=True)
        self.likelihood = likelihoods.get(likelihood)
        check_likelihood(self.likelihood, decoder, encoder.input_shape[1:])
        outputs = getattr(encoder, "outputs", None) or [None]
        if len(outputs) not in (1, len(levels)):
            raise ValueError(
                "`encoder` must have one output, or one for each level. "
                f"Received: {len(outputs)} outputs for {len(levels)} levels."
            )
        self.encoder = encoder
        self.levels = list(levels)
        self.decoder = decoder
        if prior is not None:
            check_prior(prior, self.latent_shape, self.data_shape, self.likelihood)
        self.prior = prior
        self.beta = beta
        self.warm_up = warm_up
        self.free_bits = free_bits
        self.built = True
        self.start_averaging()

    @property
    def data_shape(self):
        """Shape of an example, such as `(28, 28, 1)`."""
        return tuple(self.encoder.input_shape[1:])

    @property
    def latent_shape(self):
        """Shape of z_0, the code of the top level, which `prior` is a density of."""
        return self.levels[0].latent_shape

    @property
    def kl_names(self):
        """`kl_0`, `kl_1`, ..., from the top down."""
        return tuple(f"kl_{i}" for i in range(len(self.levels)))

    @property
    def term_names(self):
        """Names of the loss terms."""
        return ("reconstruction", *self.kl_names)

    @property
    def bound_names(self):
        """Names of the terms of the bound, and the KL of each level."""
        return ("reconstruction", "prior", "denoising", *self.kl_names)

    def loss_terms(self, batch, training=False, seed=None):
        """`reconstruction` and `kl_0`, `kl_1`, ... as they count in the loss, `[B]` nats."""
        x = images_of(batch)
        reconstruction, kls = self._elbo(x, training, seed)
        weight = self.beta
        if training and self.warm_up:
            done = tf.cast(self.optimizer.iterations, tf.float32) / self.warm_up
            weight = weight * tf.minimum(done, 1.0)
        if self.free_bits:
            # Above the floor the gradient is that of the KL, below it is zero.
            kls = [kl + tf.nn.relu(self.free_bits - tf.reduce_mean(kl)) for kl in kls]
        return {
            "reconstruction": reconstruction,
            **{name: weight * kl for name, kl in zip(self.kl_names, kls)},
        }

    def bound_terms(self, batch, training=False, seed=None):
        """`reconstruction`, `prior`, `denoising`, and the KL of each level, `[B]` nats."""
        reconstruction, kls = self._elbo(images_of(batch), training, seed)
        return {
            "reconstruction": reconstruction,
            "prior": kls[0],
            "denoising": tf.add_n([tf.zeros_like(kls[0]), *kls[1:]]),
            **dict(zip(self.kl_names, kls)),
        }

    def _elbo(self, x, training, seed):
        seed = self.seeds.next() if seed is None else seed
        state, steps = self.infer(x, seed, training=training)
        log_p = self.likelihood.log_prob(self._parameters(state, training), x)
        kls = [q.kl(p) for q, p, _ in steps]
        if self.prior is not None:
            q, _, z = steps[0]
            kls[0] = self.prior.kl(q, z, self.posterior)
        return -log_p, kls

    def posterior(self, x):
        """The Gaussian q(z_0 | x)."""
        state = self._start(tf.shape(x)[0])
        return self.levels[0].posterior(state, self._features(x, False)[0])

    def infer(self, x, seed, num_samples=1, training=False):
        """Visits the levels from the top and samples each posterior.

        Args:
            x: data `[B, ...]`.
            seed: an int32 pair.
            num_samples: K, how many samples for each example.
            training: whether layers such as dropout are active in the encoder and the decoder; a
                level always runs as after training.

        Returns:
            The last state, `[K B, ...]` sample by sample, and for each level `(q, p, z)`.
        """
        features = self._features(x, training)
        features = [tile(f, num_samples) for f in features]
        state, steps = self._start(num_samples * tf.shape(x)[0]), []
        for level, f, level_seed in zip(self.levels, features, self._seeds(seed), strict=True):
            p, q = level.prior(state), level.posterior(state, f)
            z = q.sample(level_seed)
            steps.append((q, p, z))
            state = level.merge(state, z)
        return state, steps

    def log_weights(self, x, seed, num_samples, training=False):
        """The log weights log p(x, z) - log q(z | x) for `num_samples` samples, `[K, B]` nats."""
        x = tf.cast(x, tf.float32)
        state, steps = self.infer(x, seed, num_samples, training)
        log_w = self.likelihood.log_prob(self._parameters(state, training), tile(x, num_samples))
        log_p = [p.log_prob(z) for _, p, z in steps]
        if self.prior is not None:
            log_p[0] = self.prior.log_prob(steps[0][2], self.posterior)
        log_w += tf.add_n([p - q.log_prob(z) for p, (q, _, z) in zip(log_p, steps)])
        return tf.reshape(log_w, [num_samples, -1])

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

    def encode(self, x):
        """The latents of data, a list from the top down: the mean of each posterior, in order."""
        state, latents = self._start(tf.shape(x)[0]), []
        for level, f in zip(self.levels, self._features(x, False), strict=True):
            z = level.posterior(state, f).mean
            latents.append(z)
            state = level.merge(state, z)
        return latents

    def decode(self, latents):
        """Expected data `[B, ...]` of latents, a list from the top down.

        Levels that the list does not reach take the mean of their prior.
        """
        state = self._start(tf.shape(latents[0])[0])
        for i, level in enumerate(self.levels):
            z = latents[i] if i < len(latents) else level.prior(state).mean
            state = level.merge(state, z)
        return self.likelihood.mean(self._parameters(state, False))

    def reconstruct(self, x, num_levels=None):
        """Expected data through the top `num_levels` levels (all of them by default) and back.

        Raises:
            ValueError: if there are not so many levels.
        """
        num_levels = len(self.levels) if num_levels is None else num_levels
        if not 1 <= num_levels <= len(self.levels):
            raise ValueError(
                f"`num_levels` must be in 1..{len(self.levels)}. Received: {num_levels}."
            )
        return self.decode(self.encode(x)[:num_levels])

    def call(self, x, training=False):
        """The reconstruction."""
        return self.reconstruct(x)

    def generate(self, num_samples, *, temperature=1.0, seed=None):
        """Draws latents from the top down and decodes them.

        Args:
            num_samples: how many.
            temperature: factor of the standard deviation of each prior, positive; one number, or
                one for each level from the top down.
            seed: integer or None.

        Returns:
            uint8 `[num_samples, H, W, C]` where the data are pictures, else float32: expected data
            given the latents.

        Raises:
            ValueError: if a number is not positive, or there is another number of temperatures.
        """
        check_count("num_samples", num_samples)
        several = isinstance(temperature, (list, tuple))
        temperatures = list(temperature) if several else [temperature] * len(self.levels)
        if len(temperatures) != len(self.levels):
            raise ValueError(
                f"`temperature` must be a number, or one for each of the {len(self.levels)} "
                f"levels. Received: temperature={temperature!r}."
            )
        for value in temperatures:
            check_positive("temperature", value)
        temperatures = tf.constant([float(value) for value in temperatures])
        step = compiled_samples(self)
        x = step(tf.constant(num_samples), temperatures, as_seed(seed))
        return likelihoods.at_the_door(self.likelihood, x).numpy()

    def sample_data(self, num_samples, temperature, seed):
        """Expected data of drawn latents; `temperature` is a number or `[levels]`."""
        temperature = tf.broadcast_to(temperature, [len(self.levels)])
        state = self._start(num_samples)
        for i, (level, level_seed) in enumerate(zip(self.levels, self._seeds(seed))):
            if i == 0 and self.prior is not None:
                z = self.prior.sample(num_samples, level_seed, self.posterior, temperature[0])
            else:
                p = level.prior(state)
                z = Gaussian(p.mean, p.log_std + tf.math.log(temperature[i])).sample(level_seed)
            state = level.merge(state, z)
        return self.likelihood.mean(self._parameters(state, False))

    def _features(self, x, training):
        features = self.encoder(x, training=training)
        return features if isinstance(features, (list, tuple)) else [features] * len(self.levels)

    def _start(self, batch_size):
        return tf.zeros(tf.stack([batch_size, *self.levels[0].state_shape]))

    def _seeds(self, seed):
        # One level has the seed of the VAE.
        return [seed] if len(self.levels) == 1 else split(seed, len(self.levels))

    def _parameters(self, state, training):
        return tf.cast(self.decoder(state, training=training), tf.float32)

    def check_batch(self, batch):
        """Checks data before training and evaluation."""
        check_pictures(batch, self.data_shape, self.likelihood)

    def export_functions(self):
        """What a SavedModel offers: `encode`, `decode`, `reconstruct` and `generate`."""
        from kgen.serving import autoencoders as serving

        return serving.hierarchy(self), []
