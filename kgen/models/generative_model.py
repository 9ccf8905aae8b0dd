"""The abstract base of all stations: a loss of named terms, a bound, presets.

A model whose loss is a bound on -log p(x) also states the bound itself, `bound_terms`, whatever the
weights of its loss; `evaluate` reports both, the sum as `bound` and as `bits_per_dim`.

References:
  Luo (2022), https://arxiv.org/abs/2208.11970: every loss here is a sum of terms of its ELBO.
"""

import warnings

import numpy as np
import tensorflow as tf

from kgen.checks import check_one_of, has_range, warn_of_range
from kgen.layer_tree import layers_of
from kgen.metrics.bits_per_dim import bits_per_dim
from kgen.presets import save_preset
from kgen.serialization import constructor_arguments
from kgen.tensors import sum_event
from kgen.training.data import WEIGHT
from kgen.training.model import TermsModel

MASK = "mask"  # the entry of a batch that is 1 where a value of the data is known, else 0
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
    takes_mask = False  # whether the model learns from data of which values are missing

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
        x, mask = images_of(batch), mask_of(batch)
        shape = x.shape[1:]
        width = self.likelihood.bin_width if has_range(self.likelihood, shape) else None
        num, per_value = shape.num_elements(), nats
        if mask is not None:  # of those that are known
            per_value = nats * num / tf.maximum(sum_event(tf.cast(mask, tf.float32)), 1.0)
        bits = bits_per_dim(per_value, num, bin_width=width)
        return {**bound, "bound": nats, "bits_per_dim": bits}

    def as_batch(self, data):
        """As of `TermsModel`, with the shape of the examples known where a pipeline hides it."""
        batch, weights = super().as_batch(data)
        shape = [None, *self.data_shape]
        if isinstance(batch, dict) and "images" in batch:
            batch = {**batch, "images": tf.ensure_shape(batch["images"], shape)}
            if self.takes_mask and MASK in batch:
                mask = tf.cast(batch[MASK], tf.bool)
                batch[MASK] = tf.broadcast_to(mask, tf.shape(batch["images"]))
                batch["images"] = tf.where(batch[MASK], batch["images"], 0)
        elif not isinstance(batch, dict):
            batch = tf.ensure_shape(batch, shape)
        self._check_range(images_of(batch))
        return batch, weights

    def _check_range(self, x):
        """Refuses pictures of another range in the middle of an epoch, such as [0, 255].

        What is only a little beyond the range passes, as resampling makes it, and so does NaN,
        which `skip_above` skips.
        """
        likelihood = getattr(self, "likelihood", None)
        if likelihood is None or not getattr(self, "bounded", True):
            return
        if has_range(likelihood, x.shape[1:]):
            low, high = likelihood.low, likelihood.high
            far = tf.abs(x - (low + high) / 2) > 1.5 * (high - low)
            message = f"The pictures of a batch must be in [{low:g}, {high:g}]"
            tf.debugging.assert_equal(tf.reduce_any(far), False, message)

    def warn_about(self, batch):
        """As of `TermsModel`: data of another range, and entries that have no use."""
        if self.conditioner is None and "conditioner" in constructor_arguments(self):
            used = {"images", MASK, WEIGHT, "moments"}
            unused = sorted(set(batch) - used) if isinstance(batch, dict) else []
            if unused:
                warnings.warn(
                    f"The entries {unused} of a batch have no use: the model has no conditioner.",
                    stacklevel=2,
                )
        batch = self.without_missing(batch)
        if isinstance(batch, dict) and "images" not in batch:  # what is precomputed
            return
        x = batch["images"] if isinstance(batch, dict) else batch
        likelihood = getattr(self, "likelihood", None) if getattr(self, "bounded", True) else None
        warn_of_range(x, self.data_shape, likelihood)

    def without_missing(self, batch):
        """Returns a batch of arrays whose missing values are replaced by known ones, for checks.

        Raises:
            ValueError: if the model does not learn from such data, or the mask does not fit.
        """
        if mask_of(batch) is None or self.target_key == MASK:
            return batch
        if not self.takes_mask:
            raise ValueError(
                f'The entry "{MASK}" of a batch, of missing values, is for a VAE or an HVAE, whose '
                f"likelihood leaves them out. Received: a batch for a {type(self).__name__}."
            )
        x, mask = np.asarray(batch["images"]), np.asarray(batch[MASK]).astype(bool)
        try:
            mask = np.broadcast_to(mask, x.shape)
        except ValueError:
            raise ValueError(
                f'The entry "{MASK}" must have the shape of the data, {x.shape}, or broadcast to '
                f"it. Received: {mask.shape}."
            ) from None
        if not mask.any():
            raise ValueError(f'The entry "{MASK}" must be 1 where a value is known. Received: 0.')
        return {**batch, "images": np.where(mask, x, x[mask][0])}

    def save_to_preset(self, directory, dtype="float16", **options):
        """Writes the model as a preset; see `kgen.presets.save_preset`."""
        save_preset(self, directory, dtype, **options)

    def export(self, directory, **options):
        """Writes the model for programs without kgen; see `kgen.export_saved_model`.

        Args:
            directory: folder to write.
            **options: of `kgen.export_saved_model`, such as `parts=True` for LiteRT and ONNX files.
        """
        from kgen.export import export_saved_model

        export_saved_model(self, directory, **options)

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


def mask_of(batch):
    """Returns where the values of a batch are known, boolean of its shape, or None for all."""
    return batch.get(MASK) if isinstance(batch, dict) else None


def images_of(batch):
    """Returns the pictures of a batch, float32: the batch itself, or its entry `"images"`.

    Raises:
        ValueError: if the batch is a dictionary without that entry.
    """
    if isinstance(batch, dict) and "images" not in batch:
        raise ValueError(f'A batch must have the key "images". Received keys: {sorted(batch)}.')
    return tf.cast(batch["images"] if isinstance(batch, dict) else batch, tf.float32)
