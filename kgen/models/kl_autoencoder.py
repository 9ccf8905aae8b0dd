"""The autoencoder of latent diffusion models: a VAE with a small weight of the KL.

    z = mean(x) + std(x) eps,    x_hat = decoder(z)

    loss = l1 |x - x_hat| + l2 (x - x_hat)^2 + perceptual |phi(x) - phi(x_hat)|^2
           + kl_weight KL(q(z|x) || N(0, I)) - adversarial D(x_hat)

Every term is a mean over the values of the picture (the KL, in nats, is divided by their number
too), so that the weights of the terms do not depend on the size. Latents are standardised per
channel by a mean and a standard deviation that are measured on data and saved with the weights;
`encode` returns standardised latents, `decode` takes them:

    latent = (mean(x) - m) / s

A decoder that was trained on the codes of its encoder only is sensitive to the errors of a
diffusion model. `latent_noise` is the standard deviation of noise, in units of the standardised
latents, that is added to half of each training batch.

Shapes: pictures `[B, H, W, C]` in [-1, 1], latents `[B, h, w, c]`.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, section 3.1 and appendix G.
  Esser et al. (2021), https://arxiv.org/abs/2012.09841, eq. 5-7 (discriminator after a warm-up).
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_positive
from kgen.distribution import fused
from kgen.gaussian import standard_normal
from kgen.layer_tree import freeze
from kgen.likelihoods import GaussianLikelihood
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.models.generative_model import images_of
from kgen.serialization import Untracked, serializable
from kgen.symbolic import call
from kgen.tensors import batch_mean, expand_to, normal, split, sum_event
from kgen.training.model import weighted
from kgen.training.replicas import global_loss, global_mean
from kgen.types import Batch, Condition, Network, Shape, TensorLike


@serializable
class KLAutoencoder(EncoderDecoder):
    """KL-regularised autoencoder for latent diffusion.

    Args:
        encoder: network from `[B, H, W, C]` to `[B, h, w, 2 c]`, mean and log standard deviation.
        decoder: network from `[B, h, w, c]` to `[B, H, W, C]`.
        l1: weight of the mean absolute error.
        l2: weight of the mean squared error.
        kl_weight: weight of the KL, in nats per value of the picture.
        latent_noise: standard deviation of noise on half of the standardised latents in training.
        features: None, or a network of pictures for the perceptual term, which is not trained.
        perceptual: weight of the mean squared distance of the features.
        discriminator: None, or a network from `[B, H, W, C]` to `[B, ...]`, one logit per patch.
        adversarial: weight of the discriminator's term.
        adversarial_start: number of training steps before the discriminator is used.
        data_shape: `(H, W, C)`; None for that of the encoder's input.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        TypeError: if a weight is not a number.
        ValueError: if the networks are not compatible, a weight is negative, or `perceptual` is not
            0 without `features`.

    Example:
        >>> from kgen.networks.conv import decoder, encoder
        >>> model = KLAutoencoder(
        ...     encoder((16, 16, 3), 4, channels=(8, 16)), decoder((8, 8, 4), channels=(8, 16))
        ... )
        >>> model.reconstruct(tf.zeros([2, 16, 16, 3])).shape
        TensorShape([2, 16, 16, 3])
    """

    gaussian_code = True

    def __init__(
        self,
        encoder: Network,
        decoder: Network,
        *,
        l1: float = 1.0,
        l2: float = 1.0,
        kl_weight: float = 1e-2,
        latent_noise: float = 0.0,
        features: Network | None = None,
        perceptual: float = 0.0,
        discriminator: Network | None = None,
        adversarial: float = 0.1,
        adversarial_start: int = 0,
        data_shape: Sequence[int] | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"data_shape": data_shape, "ema_decay": ema_decay, "seed": seed, **kwargs}
        super().__init__(encoder, decoder, likelihood=GaussianLikelihood(1.0), **options)
        for option, value in (
            ("l1", l1),
            ("l2", l2),
            ("kl_weight", kl_weight),
            ("latent_noise", latent_noise),
            ("perceptual", perceptual),
            ("adversarial", adversarial),
            ("adversarial_start", adversarial_start),
        ):
            check_positive(option, value, zero=True)
        if perceptual and features is None:
            raise ValueError(
                f"`features` must be a network when `perceptual` is not 0. "
                f"Received: features=None, perceptual={perceptual}."
            )
        self.l1 = l1
        self.l2 = l2
        self.kl_weight = kl_weight
        self.latent_noise = latent_noise
        self.features = features
        self.perceptual = perceptual
        self.discriminator = discriminator
        self.adversarial = adversarial
        self.adversarial_start = adversarial_start
        if features is not None:
            freeze(features)

        def statistic(name: str, initializer: str) -> keras.Variable:
            return self.add_weight(
                shape=self.latent_shape[-1:],
                initializer=initializer,
                dtype="float32",
                autocast=False,
                trainable=False,
                name=name,
            )

        self._resized = Untracked({})
        self.latent_mean = statistic("latent_mean", "zeros")
        self.latent_std = statistic("latent_std", "ones")
        self.start_averaging()

    def run_encoder(self, x: TensorLike, cond: Condition = None, training: bool = False) -> Any:
        """Returns the output of the encoder, for pictures of any size that it accepts."""
        encoder = self._of_size(self.encoder, x.shape[1:-1], self.data_shape)
        return call(encoder, {"x": x, "cond": cond}, training)

    def run_decoder(
        self, z: tf.Tensor, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Returns the output of the decoder, float32, for latents of any size that it accepts."""
        decoder = self._of_size(self.decoder, z.shape[1:-1], self.latent_shape)
        return tf.cast(call(decoder, {"z": z, "cond": cond}, training), tf.float32)

    def _of_size(self, network: Network, size: Sequence[int], own_shape: Shape) -> Network:
        """Returns a network for another size of its input that shares layers and weights.

        Args:
            network: the encoder or the decoder.
            size: spatial size of the input.
            own_shape: shape of the input for which the network was made.
        """
        size = tuple(size)
        if size == tuple(own_shape[:-1]) or None in size:
            return network
        from kgen.networks import resized

        key = (id(network), size)
        if key not in self._resized.value:
            self._resized.value[key] = resized(network, size)
        return self._resized.value[key]

    def _encode(self, x: tf.Tensor, cond: Condition, seed: tf.Tensor | None = None) -> tf.Tensor:
        return (super()._encode(x, cond, seed) - self.latent_mean) / self.latent_std

    def _decode(self, z: tf.Tensor, cond: Condition) -> tf.Tensor:
        return super()._decode(z * self.latent_std + self.latent_mean, cond)

    def measure_latents(
        self, dataset: tf.data.Dataset | np.ndarray, max_batches: int = 200
    ) -> None:
        """Measures and stores the mean and the standard deviation of each latent channel.

        They are those of samples of the posterior, on which a latent diffusion model is trained:
        the variance is the sum of the variance of the means and the mean of the variances.

        Args:
            dataset: pictures, or batches of pictures or of dictionaries with `"images"`.
            max_batches: largest number of batches to use.

        Raises:
            ValueError: if `dataset` is empty.
        """

        @tf.function(reduce_retracing=True)
        def encoder(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            q = self.posterior(x)
            return q.mean, q.std**2

        if not isinstance(dataset, tf.data.Dataset):
            dataset = tf.data.Dataset.from_tensor_slices(dataset).batch(64)
        count, total, squares = 0, 0.0, 0.0
        for batch in dataset.take(max_batches):
            mean, variance = (
                values.numpy().reshape(-1, self.latent_shape[-1]).astype("float64")
                for values in encoder(images_of(batch))
            )
            count += len(mean)
            total += mean.sum(0)
            squares += (mean**2 + variance).sum(0)
        if count == 0:
            raise ValueError("`dataset` must yield at least one batch. Received an empty one.")
        mean = total / count
        self.latent_mean.assign(mean)
        self.latent_std.assign(np.sqrt(np.maximum(squares / count - mean**2, 1e-12)))

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms: those whose weight or network is set."""
        perceptual = ("perceptual",) if self.perceptual else ()
        adversarial = ("adversarial", "discriminator") if self.discriminator is not None else ()
        return ("l1", "l2", "kl", *perceptual, *adversarial)

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the weighted loss terms, `[B]` each, means over the values of a picture."""
        return self._loss_terms(images_of(batch), training, seed)[0]

    def _loss_terms(
        self, x: tf.Tensor, training: bool, seed: tf.Tensor | None
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        sample_seed, noise_seed = split(self.seeds.next() if seed is None else seed, 2)
        q = self._posterior(x, training=training)
        z = q.sample(sample_seed) if training else q.mean
        if training and self.latent_noise:
            z = z + self._noise(z, noise_seed)
        x_hat = self.run_decoder(z, training=training)
        values = tf.cast(tf.size(x[0]), tf.float32)
        terms = {
            "l1": self.l1 * sum_event(tf.abs(x - x_hat)) / values,
            "l2": self.l2 * sum_event((x - x_hat) ** 2) / values,
            "kl": self.kl_weight * q.kl(standard_normal(q.mean)) / values,
        }
        if self.perceptual:
            real, again = (call(self.features, {"x": images}) for images in (x, x_hat))
            distance = tf.square(real - again)
            distance = tf.reduce_mean(tf.reshape(distance, [tf.shape(x)[0], -1]), axis=1)
            terms["perceptual"] = self.perceptual * tf.cast(distance, tf.float32)
        return terms, x_hat

    def _noise(self, z: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns noise for the first half of the batch, in units of its deviation per channel."""
        values = tf.stop_gradient(z)
        inner = list(range(1, z.shape.rank - 1))
        means = [tf.reduce_mean(values**power, inner) for power in (1, 2)]  # of each example
        mean, square = batch_mean(means[0]), batch_mean(means[1])
        spread = tf.sqrt(tf.maximum(square - mean**2, 0))
        half = tf.cast(tf.range(tf.shape(z)[0]) < tf.shape(z)[0] // 2, z.dtype)
        return self.latent_noise * spread * expand_to(half, z) * normal(tf.shape(z), seed)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "adam",
        discriminator_optimizer: keras.optimizers.Optimizer | str | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training; see `GenerativeModel.compile`.

        Args:
            optimizer: a Keras optimizer or its name.
            discriminator_optimizer: the discriminator's optimizer; None for Adam with the learning
                rate 1e-4 and beta_1 = 0.5.
            **kwargs: options of `GenerativeModel.compile`.
        """
        super().compile(optimizer, **kwargs)
        if self.discriminator is not None:
            optimizer = discriminator_optimizer or keras.optimizers.Adam(1e-4, beta_1=0.5)
            self.discriminator_optimizer = keras.optimizers.get(optimizer)
            self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the configuration of `compile`, with the optimizer of the discriminator."""
        config = super().get_compile_config()
        if config and self.discriminator is not None:
            optimizer = keras.saving.serialize_keras_object(self.discriminator_optimizer)
            config["discriminator_optimizer"] = optimizer
        return config

    @property
    def optimized_variables(self) -> list[keras.Variable]:
        """The variables of the autoencoder; the discriminator has a separate optimizer."""
        networks = self.encoder, self.decoder
        return [v for part in networks for v in getattr(part, "trainable_variables", ())]

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes one step of the autoencoder and, if there is one, of the discriminator.

        The autoencoder minimises its terms minus the discriminator's logits on x_hat; the
        discriminator minimises the hinge loss `max(0, 1 - D(x)) + max(0, 1 + D(x_hat))`, a mean
        over patches. Both adversarial terms start after the warm-up.
        """
        if self.discriminator is None:
            return super().train_step(data)
        batch, weights = self.as_batch(data)
        x = images_of(batch)
        joined = tf.cast(self.optimizer.iterations >= self.adversarial_start, tf.float32)
        variables = self.optimized_variables
        with fused(training=True), tf.GradientTape() as tape:
            terms, x_hat = self._loss_terms(x, True, None)
            logits = self._logits(x_hat)
            terms["adversarial"] = -joined * self.adversarial * tf.reduce_mean(logits, axis=1)
            terms, extra = weighted(terms, weights), self.regularization()
            scaled = self.optimizer.scale_loss(global_loss(terms, extra))
        skipped = self.apply_gradients(self.optimizer, tape.gradient(scaled, variables), variables)
        variables = self.discriminator.trainable_variables
        with fused(training=True), tf.GradientTape() as tape:
            hinge = tf.nn.relu(1 - self._logits(x)) + tf.nn.relu(1 + self._logits(x_hat))
            hinge = joined * tf.reduce_mean(hinge, axis=1)
            scaled = self.discriminator_optimizer.scale_loss(global_mean(hinge))
        gradients = tape.gradient(scaled, variables)
        self.apply_gradients_of(self.discriminator_optimizer, gradients, variables)
        return self.logs(terms, extra, skipped=skipped, discriminator=hinge)

    def _logits(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the logits of the discriminator, `[B, P]`, one per patch."""
        logits = tf.cast(self.discriminator(x, training=True), tf.float32)
        return tf.reshape(logits, [tf.shape(x)[0], -1])
