"""The abstract base of all stations: a loss of named terms, a bound, presets.

A model whose loss is a bound on -log p(x) also states the bound itself, `bound_terms`, whatever the
weights of its loss; `evaluate` reports both, the sum as `bound` and as `bits_per_dim`.

References:
  Luo (2022), https://arxiv.org/abs/2208.11970: every loss here is a sum of terms of its ELBO.
"""

import tensorflow as tf

from kgen.checks import check_one_of, has_range
from kgen.layer_tree import layers_of
from kgen.metrics.bits_per_dim import bits_per_dim
from kgen.presets import save_preset
from kgen.serialization import constructor_arguments
from kgen.training.model import TermsModel

BOUND = ("reconstruction", "prior", "denoising")  # of Luo (2022), eq. 58


class GenerativeModel(TermsModel):
    """Abstract: a station of the road.

    A subclass defines `data_shape` and `loss_terms`, and calls `start_averaging` at the end of its
    constructor.

    Args:
        ema_decay: decay of the averaged weights, in [0, 1), or None for no averaging.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.
    """

    conditioner = None

    @property
    def target_key(self):
        """The entry of a batch that targets, `fit(x, y)`, stand for."""
        return getattr(self.conditioner, "batch_key", None)

    @property
    def bound_names(self):
        """Names of the terms of the bound."""
        return ("reconstruction", "prior")

    @property
    def evaluation_names(self):
        """Names of what evaluation reports beside the terms of the loss."""
        bounded = type(self).bound_terms is not GenerativeModel.bound_terms
        return (*self.bound_names, "bound", "bits_per_dim") if bounded else ()

    def bound_terms(self, batch, training=False, seed=None):
        """Returns the terms of the bound on -log p(x), `{name: [B]}` in nats, if there is one."""
        return {}

    def evaluation_terms(self, batch, seed):
        """Returns the terms of the bound, their sum, and that in bits per dimension."""
        bound = self.bound_terms(batch, training=False, seed=seed)
        if not bound:
            return {}
        nats = tf.add_n([bound[name] for name in BOUND if name in bound])
        shape = images_of(batch).shape[1:]
        width = self.likelihood.bin_width if has_range(self.likelihood, shape) else None
        bits = bits_per_dim(nats, shape.num_elements(), bin_width=width)
        return {**bound, "bound": nats, "bits_per_dim": bits}

    def as_batch(self, data):
        """As of `TermsModel`, with the shape of the examples known where a pipeline hides it."""
        batch, weights = super().as_batch(data)
        shape = [None, *self.data_shape]
        if isinstance(batch, dict) and "images" in batch:
            batch = {**batch, "images": tf.ensure_shape(batch["images"], shape)}
        elif not isinstance(batch, dict):
            batch = tf.ensure_shape(batch, shape)
        return batch, weights

    def save_to_preset(self, directory, dtype="float16", **options):
        """Writes the model as a preset; see `kgen.presets.save_preset`."""
        save_preset(self, directory, dtype, **options)

    def with_settings(self, **settings):
        """Returns a model of the same networks, with their weights, and some other settings.

        So a trained model is trained on for something else: a VAE as an IWAE, or
        `kgen.from_preset(directory).with_settings(weighting="sigmoid", ema_decay=0.999)`. The
        networks are shared, not copied, and averages begin anew, at the present weights. Another
        part, such as `prior`, brings its own weights.

        Args:
            **settings: arguments of the constructor; the others stay as they are.

        Raises:
            ValueError: for a setting that the model does not have, or one that changes the shape
                of its weights.
        """
        arguments = {"name": self.name, "dtype": self.dtype_policy, **constructor_arguments(self)}
        for name in settings:
            check_one_of("settings", name, arguments)
        model = type(self)(**{**arguments, **settings})
        weights, new = self._own_weights(), model._own_weights()
        if [v.shape for v in weights] != [v.shape for v in new]:
            raise ValueError(
                "`settings` must leave the shapes of the weights as they are. "
                f"Received: {', '.join(settings)}."
            )
        for variable, value in zip(new, weights):
            variable.assign(value)
        return model

    def _own_weights(self):
        """The weights that are in no part of the model, such as a codebook."""
        inside = {id(v) for part in layers_of(self)[1:] for v in part.weights}
        return [v for v in self.weights if id(v) not in inside]


def images_of(batch):
    """Returns the pictures of a batch, float32: the batch itself, or its entry `"images"`.

    Raises:
        ValueError: if the batch is a dictionary without that entry.
    """
    if isinstance(batch, dict) and "images" not in batch:
        raise ValueError(f'A batch must have the key "images". Received keys: {sorted(batch)}.')
    return tf.cast(batch["images"] if isinstance(batch, dict) else batch, tf.float32)
