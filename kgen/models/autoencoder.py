"""The autoencoder: a code from which the input can be made again.

    h = encoder(corruption(x)),    x_hat = decoder(h)

    loss = error(x, x_hat) + sum of penalties on h

One class, composed: with a `corruption` it is a denoising autoencoder, with a penalty of
`kgen.penalties` a sparse or a contractive one, with `kgen.networks.KSparse` at the end of the
encoder a k-sparse one. Errors are sums over the event and means over the batch:

    "squared"         sum (x - x_hat)^2
    "absolute"        sum |x - x_hat|
    "cross_entropy"   -sum [ x log p + (1 - x) log(1 - p) ],  p = sigmoid(decoder(h)),  x in [0, 1]

References:
  Weng (2018), https://lilianweng.github.io/posts/2018-08-12-vae/ (the family, in one notation).
  Vincent et al. (2010), https://www.jmlr.org/papers/v11/vincent10a.html (denoising).
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.checks import check_networks, check_one_of, check_pictures
from kgen.models.generative_model import GenerativeModel, images_of
from kgen.serialization import serializable
from kgen.tensors import split, sum_event

ERRORS = {
    "squared": lambda x, x_hat: sum_event((x - x_hat) ** 2),
    "absolute": lambda x, x_hat: sum_event(tf.abs(x - x_hat)),
    "cross_entropy": lambda x, logits: -likelihoods.Bernoulli().log_prob(logits, x),
}


@serializable
class Autoencoder(GenerativeModel):
    """Autoencoder: plain, denoising, sparse, contractive, or any of these together.

    Args:
        encoder: network `[B, ...]` -> codes `[B, ...]`.
        decoder: network from codes to data; of `"cross_entropy"`: to logits.
        error: `"squared"`, `"absolute"` or `"cross_entropy"`.
        corruption: None, or a corruption of `kgen.corruption`, in training only.
        penalties: penalties of `kgen.penalties`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        ValueError: if the networks do not fit, or `error` is none of these.

    Example:
        >>> from kgen.corruption import Masking
        >>> from kgen.networks import mlp
        >>> model = Autoencoder(mlp((4,), (2,)), mlp((2,), (4,)), corruption=Masking(0.25))
        >>> model.reconstruct(tf.zeros([3, 4])).shape
        TensorShape([3, 4])
    """

    def __init__(
        self,
        encoder,
        decoder,
        *,
        error="squared",
        corruption=None,
        penalties=(),
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        check_networks(encoder, decoder)
        check_one_of("error", error, ERRORS)
        self.encoder = encoder
        self.decoder = decoder
        self.error = error
        self.corruption = corruption
        self.penalties = tuple(penalties)
        names = [penalty.name for penalty in self.penalties]
        if len(set(names)) < len(names):
            raise ValueError(f"`penalties` must be one of each kind. Received: {names}.")
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
        return ("reconstruction", *(penalty.name for penalty in self.penalties))

    def loss_terms(self, batch, training=False, seed=None):
        """`reconstruction` and one term for each penalty, `[B]`."""
        x = images_of(batch)
        seed = self.seeds.next() if seed is None else seed
        corruption_seed, *seeds = split(seed, 1 + max(1, len(self.penalties)))
        corrupt = training and self.corruption is not None
        given = self.corruption(x, corruption_seed) if corrupt else x

        def encode(x):
            return tf.cast(self.encoder(x, training=training), tf.float32)

        terms, code = {}, None
        for penalty, penalty_seed in zip(self.penalties, seeds):
            code, terms[penalty.name] = penalty(encode, given, penalty_seed)
        code = encode(given) if code is None else code
        output = tf.cast(self.decoder(code, training=training), tf.float32)
        return {"reconstruction": ERRORS[self.error](x, output), **terms}

    def encode(self, x):
        """Codes of data."""
        return tf.cast(self.encoder(x), tf.float32)

    def decode(self, code):
        """Data of codes."""
        output = tf.cast(self.decoder(code), tf.float32)
        return tf.sigmoid(output) if self.error == "cross_entropy" else output

    def reconstruct(self, x):
        """Data through the code and back."""
        return self.decode(self.encode(x))

    def call(self, x, training=False):
        """The reconstruction."""
        return self.reconstruct(x)

    def check_batch(self, batch):
        """Checks data before training and evaluation."""
        unit = likelihoods.Bernoulli() if self.error == "cross_entropy" else None
        check_pictures(batch, self.data_shape, unit)

    def export_functions(self):
        """What a SavedModel offers: `encode`, `decode` and `reconstruct`."""
        from kgen.serving import autoencoders as serving

        return serving.autoencoder(self), []
