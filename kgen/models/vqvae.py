"""The VQ-VAE: an autoencoder with discrete codes.

    h = encoder(x),   k = argmin_j |h - e_j|,   x_hat = decoder(h + stop(e_k - h))

    loss = |x - x_hat|^2 + commitment |h - stop(e_k)|^2

Both terms are sums over the event. The gradient is passed through the choice of k unchanged
(straight-through estimator). The codebook vectors e_j are moving averages: with the number n_j and
the sum m_j of the encodings that are assigned to code j,

    n_j <- d n_j + (1 - d) #{h : k = j},    m_j <- d m_j + (1 - d) sum_{h : k = j} h
    e_j = m_j / n_j

A code to which no encodings are assigned would never change. When n_j falls to `revive_below` times
the mean, the code is replaced by an encoding of the batch; since all n_j are 0 initially, this also
initialises the codes.

Shapes: data `[B, ..., C]`, codes int32 `[B, ...]` of the shape of h without its last axis.

References:
  van den Oord et al. (2017), https://arxiv.org/abs/1711.00937, eq. 1-3 and appendix A.1 (averages).
  Dhariwal et al. (2020), https://arxiv.org/abs/2005.00341, section 3.1 (random restarts).
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kgen.checks import check_count, check_interval, check_positive
from kgen.distribution import fused
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.models.generative_model import images_of
from kgen.serialization import serializable
from kgen.tensors import sum_event, uniform
from kgen.training.model import weighted
from kgen.training.replicas import global_loss, sum_over_replicas
from kgen.types import Batch, Condition, Network, Shape


@serializable
class VQVAE(EncoderDecoder):
    """Vector-quantised variational autoencoder.

    Args:
        encoder: network from `[B, H, W, C]` to `[B, h, w, D]` (or other ranks).
        decoder: network from `[B, h, w, D]` to `[B, H, W, C]`.
        num_codes: number of codes in the codebook.
        commitment: weight of the distance of an encoding from its code.
        decay: decay of the moving averages of the codes, in [0, 1).
        revive_below: use of a code, relative to the mean use, at which the code is replaced.
        data_shape: shape of an example; None for that of the encoder's input.
        ema_decay: decay of the averaged weights of the networks, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        ValueError: if the networks are not compatible, or a number is out of range.

    Example:
        >>> from kgen.networks import mlp
        >>> model = VQVAE(mlp((8,), (4, 2)), mlp((4, 2), (8,)), num_codes=16)
        >>> model.encode(tf.zeros([3, 8])).shape
        TensorShape([3, 4])
    """

    latent_dtype = tf.int32

    def __init__(
        self,
        encoder: Network,
        decoder: Network,
        num_codes: int = 256,
        *,
        commitment: float = 0.25,
        decay: float = 0.99,
        revive_below: float = 0.01,
        data_shape: Sequence[int] | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"data_shape": data_shape, "ema_decay": ema_decay, "seed": seed, **kwargs}
        super().__init__(encoder, decoder, **options)
        check_count("num_codes", num_codes)
        check_positive("commitment", commitment, zero=True)
        check_positive("revive_below", revive_below, zero=True)
        check_interval("decay", decay, "[0, 1)")
        self.num_codes = num_codes
        self.commitment = commitment
        self.decay = decay
        self.revive_below = revive_below
        *latent_shape, width = self.latent_shape
        self.latent_shape = tuple(latent_shape)  # without the axis of the vectors

        def statistic(name: str, shape: Shape, initializer: str = "zeros") -> keras.Variable:
            return self.add_weight(
                shape=shape,
                initializer=initializer,
                dtype="float32",
                autocast=False,
                trainable=False,
                name=name,
                aggregation="only_first_replica",  # equal on all replicas, see `_update_codebook`
            )

        self.codes = statistic("codes", (num_codes, width), "random_normal")
        self.counts = statistic("counts", (num_codes,))
        self.sums = statistic("sums", (num_codes, width))
        self.start_averaging()

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms and of the metric, the mean of each batch's perplexity."""
        return ("reconstruction", "commitment", "perplexity")

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `reconstruction` and `commitment`, `[B]`, summed over the event."""
        return self._forward(images_of(batch), training)[0]

    def _forward(
        self, x: tf.Tensor, training: bool
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """Returns the loss terms, the encodings `[N, D]` and the indices of their codes `[N]`."""
        h = tf.cast(self.run_encoder(x, training=training), tf.float32)
        k = self._nearest(h)
        e = tf.gather(self.codes.value, k)
        x_hat = self.run_decoder(h + tf.stop_gradient(e - h), training=training)
        terms = {
            "reconstruction": sum_event((x - x_hat) ** 2),
            "commitment": self.commitment * sum_event((h - e) ** 2),
        }
        return terms, tf.reshape(h, [-1, h.shape[-1]]), tf.reshape(k, [-1])

    def _nearest(self, h: tf.Tensor) -> tf.Tensor:
        """Returns the index of the nearest code of each encoding."""
        codes = self.codes.value
        # |h - e|^2 without |h|^2, which is equal for all codes
        distance = tf.reduce_sum(codes**2, axis=-1) - 2 * tf.tensordot(h, codes, [[-1], [-1]])
        return tf.argmin(distance, axis=-1, output_type=tf.int32)

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Trains the networks by one gradient step, and updates the codebook.

        Args:
            data: a batch of the data set.

        Returns:
            The running means of the loss, its terms and the perplexity.
        """
        batch, weights = self.as_batch(data)
        x = images_of(batch)
        variables = self.optimized_variables
        with fused(training=True), tf.GradientTape() as tape:
            terms, h, k = self._forward(x, True)
            terms, extra = weighted(terms, weights), self.regularization()
            scaled = self.optimizer.scale_loss(global_loss(terms, extra))
        gradients = tape.gradient(scaled, variables)
        skipped = self.apply_gradients(self.optimizer, gradients, variables)
        counts = self._update_codebook(tf.stop_gradient(h), k, self.seeds.next(), skipped)
        return self.logs(terms, extra, skipped=skipped, perplexity=perplexity(counts))

    def _update_codebook(
        self, h: tf.Tensor, k: tf.Tensor, seed: tf.Tensor, skipped: tf.Tensor
    ) -> tf.Tensor:
        """Updates the averages and the codes, unless the step was skipped.

        Returns:
            The number of encodings of each code, `[num_codes]`.
        """
        chosen, num = tf.one_hot(k, self.num_codes), tf.shape(h)[0]
        counts, sums = tf.reduce_sum(chosen, axis=0), tf.matmul(chosen, h, transpose_a=True)
        at = tf.cast(uniform([self.num_codes], seed) * tf.cast(num, tf.float32), tf.int32)
        # The last replicas may have no data, at the end of an epoch.
        others = tf.gather(tf.pad(h, [[0, 1], [0, 0]]), tf.maximum(tf.minimum(at, num - 1), 0))
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        others = tf.cast(first, tf.float32) * others
        counts, sums, others = sum_over_replicas([counts, sums, others])
        n = self.decay * self.counts + (1 - self.decay) * counts
        m = self.decay * self.sums + (1 - self.decay) * sums
        mean = tf.reduce_mean(counts)
        started = tf.reduce_sum(self.counts.value) > 0
        dead = tf.where(started, n < self.revive_below * mean, True)
        n = tf.where(dead, mean, n)
        m = tf.where(dead[:, None], mean * others, m)
        codes = tf.where(n[:, None] > 1e-6, m / tf.maximum(n, 1e-6)[:, None], self.codes)
        for variable, new in ((self.counts, n), (self.sums, m), (self.codes, codes)):
            variable.assign(tf.where(skipped, variable, new))
        return counts

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Evaluates the terms and the perplexity, with the averaged weights."""
        batch, weights = self.as_batch(data)
        x = images_of(batch)
        with self.averaged(), fused():
            terms, _, k = self._forward(x, False)
            terms, extra = weighted(terms, weights), self.regularization()
        counts = sum_over_replicas(tf.reduce_sum(tf.one_hot(k, self.num_codes), axis=0))
        return self.logs(terms, extra, perplexity=perplexity(counts))

    def _encode(self, x: tf.Tensor, cond: Condition, seed: tf.Tensor | None = None) -> tf.Tensor:
        return self._nearest(super()._encode(x, cond))

    def _decode(self, z: tf.Tensor, cond: Condition) -> tf.Tensor:
        return super()._decode(tf.gather(self.codes.value, z), cond)


def perplexity(counts: tf.Tensor) -> tf.Tensor:
    """Returns the perplexity of the use of codes, exp(entropy), from 1 to the number of codes.

    Example:
        >>> round(float(perplexity(tf.constant([2.0, 2.0, 0.0]))), 4)
        2.0
    """
    p = counts / tf.reduce_sum(counts)
    return tf.exp(-tf.reduce_sum(tf.math.xlogy(p, p)))
