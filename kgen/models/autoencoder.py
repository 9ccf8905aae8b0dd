"""The autoencoder: a network that compresses data to a code and reconstructs them from it.

    h = encoder(corruption(x)),    x_hat = decoder(h)

    loss = error(x, x_hat) + sum of penalties on h

With a `corruption` it is a denoising autoencoder, with a penalty of `kgen.penalties` a sparse or a
contractive one, and with `kgen.networks.KSparse` as the last layer of the encoder a k-sparse one.
Errors are sums over the event and means over the batch:

    "squared"         sum (x - x_hat)^2
    "absolute"        sum |x - x_hat|
    "cross_entropy"   -sum [ x log p + (1 - x) log(1 - p) ],  p = sigmoid(decoder(h)),  x in [0, 1]

References:
  Weng (2018), https://lilianweng.github.io/posts/2018-08-12-vae/ (the family, in one notation).
  Vincent et al. (2010), https://www.jmlr.org/papers/v11/vincent10a.html (denoising).
"""

from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from kgen import likelihoods
from kgen.checks import check_one_of
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.models.generative_model import images_of
from kgen.serialization import serializable
from kgen.tensors import split, sum_event
from kgen.types import Batch, Network

ERRORS = {
    "squared": lambda x, x_hat: sum_event((x - x_hat) ** 2),
    "absolute": lambda x, x_hat: sum_event(tf.abs(x - x_hat)),
    "cross_entropy": lambda x, logits: -likelihoods.Bernoulli().log_prob(logits, x),
}


@serializable
class Autoencoder(EncoderDecoder):
    """Autoencoder: plain, denoising, sparse, contractive, or any of these together.

    Args:
        encoder: network from data `[B, ...]` to codes `[B, ...]`.
        decoder: network from codes to data; for `"cross_entropy"` to logits.
        error: `"squared"`, `"absolute"` or `"cross_entropy"`.
        corruption: None, or a corruption of `kgen.corruption`, applied in training only.
        penalties: penalties of `kgen.penalties`, at most one of each kind.
        data_shape: shape of an example; None for that of the encoder's input.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        ValueError: if the networks are not compatible, `error` is unknown, or there are two
            penalties of one kind.

    Example:
        >>> from kgen.corruption import Masking
        >>> from kgen.networks import mlp
        >>> model = Autoencoder(mlp((4,), (2,)), mlp((2,), (4,)), corruption=Masking(0.25))
        >>> model.reconstruct(tf.zeros([3, 4])).shape
        TensorShape([3, 4])
    """

    def __init__(
        self,
        encoder: Network,
        decoder: Network,
        *,
        error: Literal["squared", "absolute", "cross_entropy"] = "squared",
        corruption: Any = None,
        penalties: Sequence[Any] = (),
        data_shape: Sequence[int] | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        check_one_of("error", error, ERRORS)
        likelihood = likelihoods.Bernoulli() if error == "cross_entropy" else None
        options = {"data_shape": data_shape, "ema_decay": ema_decay, "seed": seed, **kwargs}
        super().__init__(encoder, decoder, likelihood=likelihood, **options)
        self.error = error
        self.corruption = corruption
        self.penalties = tuple(penalties)
        names = [penalty.name for penalty in self.penalties]
        if len(set(names)) < len(names):
            raise ValueError(f"`penalties` must be one of each kind. Received: {names}.")
        self.start_averaging()

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        return ("reconstruction", *(penalty.name for penalty in self.penalties))

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `reconstruction` and one term per penalty, `[B]`, summed over the event."""
        x = images_of(batch)
        seed = self.seeds.next() if seed is None else seed
        corruption_seed, *seeds = split(seed, 1 + max(1, len(self.penalties)))
        corrupt = training and self.corruption is not None
        inputs = self.corruption(x, corruption_seed) if corrupt else x

        def encode(x: tf.Tensor) -> tf.Tensor:
            return tf.cast(self.run_encoder(x, training=training), tf.float32)

        terms, code = {}, None
        for penalty, penalty_seed in zip(self.penalties, seeds):
            code, terms[penalty.name] = penalty(encode, inputs, penalty_seed)
        code = encode(inputs) if code is None else code
        output = self.run_decoder(code, training=training)
        return {"reconstruction": ERRORS[self.error](x, output), **terms}
