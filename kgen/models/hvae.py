"""The hierarchical VAE: a chain of latents, inferred from the top down.

    p(x, z_0..z_L) = p(z_0) p(z_1 | z_0) ... p(z_L | z_<L) p(x | z_0..z_L)           z_0 on top
    q(z_0..z_L | x) = q(z_0 | x) q(z_1 | z_0, x) ... q(z_L | z_<L, x)

    -ELBO = reconstruction + prior + denoising
            reconstruction   -E log p(x | z)
            prior            KL(q(z_0 | x) || p(z_0))
            denoising        sum_{l > 0} E KL(q(z_l | z_<l, x) || p(z_l | z_<l))

A bottom-up pass over the data (`encoder`) computes features; then the levels are evaluated from the
top down. The prior and the posterior of a level depend on the same state, a function of the latents
above it (as in the ladder VAE). With one level this is the VAE; with a fixed linear Gaussian
posterior and latents of the data's own size it is the diffusion model.

The KL of a level enters the loss as max(mean over the global batch, `free_bits`), so that no level
collapses to its prior early in training.

References:
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 23-25 (Markovian HVAE), 58 (the three terms).
  Sonderby et al. (2016), https://arxiv.org/abs/1602.02282 (ladder VAE, top-down inference).
  Kingma et al. (2016), https://arxiv.org/abs/1606.04934, section 3.3 (free bits).
  Child (2020), https://arxiv.org/abs/2011.10650 (very deep VAE: residual state, skipped steps).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen import likelihoods
from kgen.checks import check_data, check_positive
from kgen.conditioning import Conditioner
from kgen.density import importance
from kgen.density.importance import tile, tile_condition
from kgen.gaussian import Gaussian
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.models.generative_model import images_of, mask_of
from kgen.sampling import ancestral
from kgen.serialization import serializable
from kgen.symbolic import output_spec, symbolic
from kgen.tensors import batch_mean, split
from kgen.types import Batch, Condition, LikelihoodName, Network, TensorLike


@serializable
class HVAE(EncoderDecoder):
    """Hierarchical variational autoencoder.

    Args:
        encoder: network from data `[B, ...]` to features, one tensor for all levels or a list with
            one per level.
        levels: `GaussianLevel`s, from the top level down, or other Keras layers with
            `prior(state) -> Gaussian`, `posterior(state, features) -> Gaussian` and
            `merge(state, z) -> state`; with a conditioner `prior(state, cond)` and
            `posterior(state, features, cond)`. The `state_shape` of the top level is that of its
            initial state, zeros.
        decoder: network from the last state to the parameters of the likelihood. Networks may be
            of any kind and, with a conditioner, receive the condition too; see
            `kgen.models.encoder_decoder`.
        likelihood: see `VAE`.
        prior: p(z_0): None for that of the top level, or an object of `kgen.priors`.
        conditioner: see `VAE`; the priors of the levels may depend on the condition.
        data_shape: shape of an example; None for that of the encoder's input.
        beta: weight of the KLs.
        warm_up: number of training steps over which `beta` grows from 0.
        free_bits: minimum KL per level, in nats, below which it is not penalised.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    For batches, also with missing values, see `VAE`.

    Raises:
        TypeError: if an option is not a number, or `prior` is not an object of `kgen.priors`.
        ValueError: if there is no level, the networks are not compatible, or an option is negative.
    """

    takes_mask = True

    def __init__(
        self,
        encoder: Network,
        levels: Sequence[keras.layers.Layer],
        decoder: Network,
        likelihood: LikelihoodName | Any = "bernoulli",
        *,
        prior: Any = None,
        conditioner: Conditioner | None = None,
        data_shape: Sequence[int] | None = None,
        beta: float = 1.0,
        warm_up: int = 0,
        free_bits: float = 0.0,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not levels:
            raise ValueError("`levels` must hold at least one level. Received: an empty sequence.")
        check_positive("beta", beta, zero=True)
        check_positive("warm_up", warm_up, zero=True)
        check_positive("free_bits", free_bits, zero=True)
        options = {"data_shape": data_shape, "ema_decay": ema_decay, "seed": seed, **kwargs}
        options |= {"likelihood": likelihoods.get(likelihood), "conditioner": conditioner}
        super().__init__(encoder, decoder, levels=levels, **options)
        if prior is not None:
            self.validate_prior(prior)
        self.prior = prior
        self.beta = beta
        self.warm_up = warm_up
        self.free_bits = free_bits
        self.start_averaging()

    def code_spec(self, code: Any, cond: Any) -> Any:
        """Calls each level on symbolic inputs, and returns the state, the decoder's input.

        Sets `latent_shapes`, from the top level down, and `latent_shape`, the shape of z_0, whose
        density `prior` is.

        Args:
            code: the symbolic outputs of the encoder, one for all levels or a list.
            cond: the symbolic condition, or None.

        Raises:
            ValueError: if the number of the encoder's outputs is neither 1 nor that of the levels,
                or a level does not accept its inputs.
        """
        features = [code] if isinstance(code, keras.KerasTensor) else list(code)
        if len(features) not in (1, len(self.levels)):
            raise ValueError(
                "`encoder` must have one output, or one for each level. "
                f"Received: {len(features)} outputs for {len(self.levels)} levels."
            )
        features *= len(self.levels) // len(features)
        state, self.latent_shapes = symbolic(self.levels[0].state_shape), []
        for i, (level, f) in enumerate(zip(self.levels, features)):

            def visit(
                state: tf.Tensor,
                features: tf.Tensor,
                cond: Condition = None,
                level: keras.layers.Layer = level,
            ) -> tuple[tf.Tensor, tf.Tensor]:
                q, _ = _distributions(level, state, features, cond)
                return q.mean, level.merge(state, q.mean)

            inputs = {"state": state, "features": f, "cond": cond}
            z, state = output_spec(visit, inputs, f"levels[{i}]")
            self.latent_shapes.append(tuple(z.shape[1:]))
        self.latent_shape = self.latent_shapes[0]
        self.latent_names = tuple(f"latents_{i}" for i in range(len(self.levels)))
        return state

    @property
    def kl_names(self) -> tuple[str, ...]:
        """Names of the KLs of the levels, `kl_0`, `kl_1`, ..., from the top down."""
        return tuple(f"kl_{i}" for i in range(len(self.levels)))

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        return ("reconstruction", *self.kl_names)

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Names of the terms of the bound, and the KL of each level."""
        return ("reconstruction", "prior", "denoising", *self.kl_names)

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `reconstruction` and the weighted `kl_0`, `kl_1`, ..., `[B]` each, in nats."""
        reconstruction, kls = self._elbo(batch, training, seed)
        weight = self.beta * self.warm_up_done(training)
        if self.free_bits:
            # Above the floor the gradient is that of the KL, below it is zero.
            kls = [kl + tf.nn.relu(self.free_bits - batch_mean(kl)) for kl in kls]
        return {
            "reconstruction": reconstruction,
            **{name: weight * kl for name, kl in zip(self.kl_names, kls)},
        }

    def bound_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `reconstruction`, `prior`, `denoising`, and each level's KL, `[B]`, in nats."""
        reconstruction, kls = self._elbo(batch, training, seed)
        return {
            "reconstruction": reconstruction,
            "prior": kls[0],
            "denoising": tf.add_n([tf.zeros_like(kls[0]), *kls[1:]]),
            **dict(zip(self.kl_names, kls)),
        }

    def _elbo(
        self, batch: Batch, training: bool, seed: tf.Tensor | None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        x, cond = images_of(batch), self.condition_of(batch, training)
        seed = self.seeds.next() if seed is None else seed
        state, steps = self.infer(x, seed, training=training, cond=cond)
        log_p = self.log_prob(self.run_decoder(state, cond, training), x, mask_of(batch))
        kls = [q.kl(p) for q, p, _ in steps]
        if self.prior is not None:
            q, _, z = steps[0]
            kls[0] = self.prior.kl(q, z, self._posterior)
        return -log_p, kls

    def _posterior(self, x: tf.Tensor, cond: Condition = None, training: bool = False) -> Gaussian:
        state, features = self._start(tf.shape(x)[0]), self._features(x, cond, training)
        return self.levels[0].posterior(state, features[0], *_given(cond))

    def infer(
        self,
        x: TensorLike,
        seed: tf.Tensor,
        num_samples: int = 1,
        training: bool = False,
        cond: Condition = None,
    ) -> tuple[tf.Tensor, list[tuple[Gaussian, Gaussian, tf.Tensor]]]:
        """Samples the posterior of each level, from the top down, with the trained weights.

        Args:
            x: data `[B, ...]`.
            seed: an int32 pair.
            num_samples: number K of samples per example.
            training: whether layers such as dropout are active in the encoder; the levels always
                run in inference mode.
            cond: the encoded condition, or None.

        Returns:
            The last state `[K B, ...]`, in which the first B rows are the first sample of each
            example, and a list of `(q, p, z)`, one per level.
        """
        features = [tile(f, num_samples) for f in self._features(x, cond, training)]
        cond = tile_condition(cond, num_samples)
        state, steps = self._start(num_samples * tf.shape(x)[0]), []
        for level, f, level_seed in zip(self.levels, features, self._seeds(seed), strict=True):
            q, p = _distributions(level, state, f, cond)
            z = q.sample(level_seed)
            steps.append((q, p, z))
            state = level.merge(state, z)
        return state, steps

    def log_weights(
        self,
        x: TensorLike,
        seed: tf.Tensor,
        num_samples: int,
        training: bool = False,
        cond: Condition = None,
    ) -> tf.Tensor:
        """Returns log importance weights log p(x, z_k) - log q(z_k | x), with the trained weights.

        Args:
            x: data `[B, ...]`.
            seed: an int32 pair.
            num_samples: number K of samples per example.
            training: whether layers such as dropout are active.
            cond: the encoded condition, or None.

        Returns:
            float32 `[K, B]`, in nats.
        """
        x = tf.cast(x, tf.float32)
        state, steps = self.infer(x, seed, num_samples, training, cond)
        output = self.run_decoder(state, tile_condition(cond, num_samples), training)
        log_w = self.likelihood.log_prob(output, tile(x, num_samples))
        log_p = [p.log_prob(z) for _, p, z in steps]
        if self.prior is not None:
            log_p[0] = self.prior.log_prob(steps[0][2], self._posterior)
        log_w += tf.add_n([p - q.log_prob(z) for p, (q, _, z) in zip(log_p, steps)])
        return tf.reshape(log_w, [num_samples, -1])

    def log_likelihood(
        self, x: TensorLike, num_samples: int = 5000, *, condition: Any = None, **options: Any
    ) -> np.ndarray:
        """Estimates log p(x), or log p(x | c), by importance sampling; see `VAE.log_likelihood`.

        Args:
            x: data, an array `[N, ...]`.
            num_samples: number of samples per example.
            condition: for a model with a conditioner, one condition per example.
            **options: options of `kgen.density.importance.importance_log_likelihood`.

        Returns:
            A float64 array `[N]`, in nats.
        """
        check_data("x", x, self.data_shape, self.likelihood)
        return importance.log_likelihood(self, x, num_samples, condition, **options)

    def _encode(
        self, x: tf.Tensor, cond: Condition, seed: tf.Tensor | None = None
    ) -> list[tf.Tensor]:
        """Returns the latents, a list from the top down: the mean of each posterior."""
        state, latents = self._start(tf.shape(x)[0]), []
        for level, f in zip(self.levels, self._features(x, cond, False), strict=True):
            z = level.posterior(state, f, *_given(cond)).mean
            latents.append(z)
            state = level.merge(state, z)
        return latents

    def _decode(self, z: Any, cond: Condition) -> tf.Tensor:
        """Decodes a list of latents from the top down; lower levels use the mean of their prior."""
        state = self._start(tf.shape(z[0])[0])
        for i, level in enumerate(self.levels):
            mean = z[i] if i < len(z) else level.prior(state, *_given(cond)).mean
            state = level.merge(state, mean)
        return super()._decode(state, cond)

    def reconstruct(
        self, x: TensorLike, num_levels: int | None = None, *, condition: Any = None
    ) -> tf.Tensor:
        """Encodes data to the latents of the top levels, and decodes them.

        Args:
            x: data `[B, ...]`.
            num_levels: number of levels whose latents are encoded; None for all. The levels below
                use the mean of their prior.
            condition: see `encode`.

        Returns:
            The expectation of the data, float32 `[B, *data_shape]`.

        Raises:
            ValueError: if `num_levels` is not between 1 and the number of levels.
        """
        num_levels = len(self.levels) if num_levels is None else num_levels
        if not 1 <= num_levels <= len(self.levels):
            raise ValueError(
                f"`num_levels` must be in 1..{len(self.levels)}. Received: {num_levels}."
            )
        latents = self.encode(x, condition=condition)[:num_levels]
        return self.decode(latents, condition=condition)

    def generate(
        self,
        num_samples: int | None = None,
        *,
        condition: Any = None,
        temperature: float | Sequence[float] = 1.0,
        seed: int | None = None,
    ) -> np.ndarray:
        """Draws latents from the top down and decodes them.

        Args:
            num_samples: number of examples; with a condition, their number per condition (1 by
                default).
            condition: see `VAE.generate`.
            temperature: factor of the standard deviation of each prior, positive; one number, or
                one per level from the top down.
            seed: integer or None.

        Returns:
            The expected data given the latents; see `VAE.generate`.

        Raises:
            ValueError: if a number is not positive, or the number of temperatures is not the number
                of levels.
        """
        several = isinstance(temperature, (list, tuple))
        temperatures = list(temperature) if several else [temperature] * len(self.levels)
        if len(temperatures) != len(self.levels):
            raise ValueError(
                f"`temperature` must be a number, or one for each of the {len(self.levels)} "
                f"levels. Received: temperature={temperature!r}."
            )
        for value in temperatures:
            check_positive("temperature", value)
        temperatures = [float(value) for value in temperatures]
        return ancestral.generate(self, num_samples, condition, temperatures, seed)

    def sample_data(
        self, num_samples: int, temperature: TensorLike, seed: tf.Tensor, cond: Condition = None
    ) -> tf.Tensor:
        """Returns the expected data of latents drawn from the priors, with the trained weights.

        Args:
            num_samples: number of examples.
            temperature: factor of the standard deviation of each prior, a number or one per level.
            seed: an int32 pair.
            cond: the encoded condition `[num_samples, ...]`, or None.

        Returns:
            float32 `[num_samples, *data_shape]`.
        """
        temperature = tf.broadcast_to(temperature, [len(self.levels)])
        state = self._start(num_samples)
        for i, (level, level_seed) in enumerate(zip(self.levels, self._seeds(seed))):
            if i == 0 and self.prior is not None:
                z = self.prior.sample(num_samples, level_seed, self._posterior, temperature[0])
            else:
                p = level.prior(state, *_given(cond))
                z = Gaussian(p.mean, p.log_std + tf.math.log(temperature[i])).sample(level_seed)
            state = level.merge(state, z)
        return super()._decode(state, cond)

    def _features(self, x: tf.Tensor, cond: Condition, training: bool) -> list[tf.Tensor]:
        features = self.run_encoder(x, cond, training)
        return features if isinstance(features, (list, tuple)) else [features] * len(self.levels)

    def _start(self, batch_size: int | tf.Tensor) -> tf.Tensor:
        return tf.zeros(tf.stack([batch_size, *self.levels[0].state_shape]))

    def _seeds(self, seed: tf.Tensor) -> list[tf.Tensor]:
        # With one level the model samples as the VAE does, from the same seed.
        return [seed] if len(self.levels) == 1 else split(seed, len(self.levels))


def _given(cond: Condition) -> tuple[Condition, ...]:
    """Returns the condition as the last argument of a level's methods, if there is one."""
    return () if cond is None else (cond,)


def _distributions(
    level: keras.layers.Layer, state: tf.Tensor, features: tf.Tensor, cond: Condition
) -> tuple[Gaussian, Gaussian]:
    """Returns q(z | state, x) and p(z | state) of a level.

    The posterior is called first, since a level with the prior N(0, I) has its shape from it.
    """
    q = level.posterior(state, features, *_given(cond))
    return q, level.prior(state, *_given(cond))
