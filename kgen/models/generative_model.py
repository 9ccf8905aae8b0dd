"""The abstract base of all models: a loss of named terms, a bound on the likelihood, presets.

A model with a bound on -log p(x) defines `bound_terms`, which do not depend on the weights of its
loss terms. `evaluate` reports both; the sum of the terms of the bound is `bound`, in nats, and
`bits_per_dim`.

References:
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 58 (the three terms of the bound).
"""

import warnings
from typing import Any, Self

import keras
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
from kgen.types import Batch, Path

MASK = "mask"  # entry of a batch: 1 where a value of the data is known, 0 where it is missing
BOUND = ("reconstruction", "prior", "denoising")  # of Luo (2022), eq. 58


class GenerativeModel(TermsModel):
    """Abstract base of the generative models.

    A subclass defines `data_shape` and `loss_terms`, and calls `start_averaging` at the end of its
    constructor.

    Args:
        ema_decay: decay of the averaged weights, in [0, 1), or None for no averaging.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.
    """

    conditioner = None
    takes_mask = False  # whether the model can be trained on data with missing values

    @property
    def target_key(self) -> str | None:
        """Key of the entry of a batch that the targets of `fit(x, y)` become, or None."""
        return getattr(self.conditioner, "batch_key", None)

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Names of the terms of the bound."""
        return ("reconstruction", "prior")

    @property
    def evaluation_names(self) -> tuple[str, ...]:
        """Names of the values that evaluation reports beside the loss terms."""
        bounded = type(self).bound_terms is not GenerativeModel.bound_terms
        return (*self.bound_names, "bound", "bits_per_dim") if bounded else ()

    def bound_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the terms of the bound on -log p(x).

        Args:
            batch: a batch as `loss_terms` accepts it.
            training: whether layers such as dropout are active.
            seed: an int32 pair; None for the next one of the model.

        Returns:
            A dictionary of tensors `[B]`, in nats; empty for a model without a bound.
        """
        return {}

    def evaluation_terms(self, batch: Batch, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the terms of the bound and their sum, `bound` in nats and `bits_per_dim`."""
        bound = self.bound_terms(batch, training=False, seed=seed)
        if not bound:
            return {}
        nats = tf.add_n([bound[name] for name in BOUND if name in bound])
        x, mask = images_of(batch), mask_of(batch)
        shape = x.shape[1:]
        width = self.likelihood.bin_width if has_range(self.likelihood, shape) else None
        num, per_value = shape.num_elements(), nats
        if mask is not None:  # per known value
            per_value = nats * num / tf.maximum(sum_event(tf.cast(mask, tf.float32)), 1.0)
        bits = bits_per_dim(per_value, num, bin_width=width)
        return {**bound, "bound": nats, "bits_per_dim": bits}

    def as_batch(self, data: Any) -> tuple[Batch, tf.Tensor | None]:
        """Splits a batch into inputs and example weights, and sets the shape of the examples.

        A batch of a data set may have an unknown static shape. Missing values are replaced by 0.
        """
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

    def _check_range(self, x: tf.Tensor) -> None:
        """Adds a check to the graph that pictures are not far outside of their range.

        It finds batches of another range, such as [0, 255], also in the middle of an epoch. Values
        slightly outside of the range, as resampling produces them, are accepted. So is NaN, which
        the option `skip_above` of `compile` handles.
        """
        likelihood = getattr(self, "likelihood", None)
        if likelihood is None or not getattr(self, "bounded", True):
            return
        if has_range(likelihood, x.shape[1:]):
            low, high = likelihood.low, likelihood.high
            far = tf.abs(x - (low + high) / 2) > 1.5 * (high - low)
            message = f"The pictures of a batch must be in [{low:g}, {high:g}]"
            tf.debugging.assert_equal(tf.reduce_any(far), False, message)

    def warn_about(self, batch: Batch) -> None:
        """Warns of data in an unlikely range, and of entries that the model does not use."""
        if self.conditioner is None and "conditioner" in constructor_arguments(self):
            used = {"images", MASK, WEIGHT, "moments"}
            unused = sorted(set(batch) - used) if isinstance(batch, dict) else []
            if unused:
                warnings.warn(
                    f"The entries {unused} of a batch are not used: the model has no conditioner.",
                    stacklevel=2,
                )
        batch = self.fill_missing(batch)
        if isinstance(batch, dict) and "images" not in batch:  # precomputed latents
            return
        x = batch["images"] if isinstance(batch, dict) else batch
        likelihood = getattr(self, "likelihood", None) if getattr(self, "bounded", True) else None
        warn_of_range(x, self.data_shape, likelihood)

    def fill_missing(self, batch: Batch) -> Batch:
        """Replaces missing values of a batch of arrays by known ones, so that it can be validated.

        Raises:
            ValueError: if the model cannot be trained on data with missing values, or the mask has
                the wrong shape or no known value.
        """
        if mask_of(batch) is None or self.target_key == MASK:
            return batch
        if not self.takes_mask:
            raise ValueError(
                f'The entry "{MASK}" of a batch, for missing values, needs a VAE or an HVAE, whose '
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
            raise ValueError(
                f'The entry "{MASK}" must be 1 where a value is known. Received: 0 everywhere.'
            )
        return {**batch, "images": np.where(mask, x, x[mask][0])}

    def save_to_preset(self, directory: Path, dtype: str = "float16", **options: Any) -> None:
        """Writes the model as a preset; see `kgen.presets.save_preset`.

        Args:
            directory: path of the preset's folder.
            dtype: type of the floating-point weights in the file.
            **options: options of `kgen.presets.save_preset`.
        """
        save_preset(self, directory, dtype, **options)

    def export(self, directory: Path, **options: Any) -> None:
        """Writes the model for programs without kgen; see `kgen.export_saved_model`.

        Args:
            directory: path of the folder to write.
            **options: options of `kgen.export_saved_model`, such as `parts=True` for LiteRT and
                ONNX files.
        """
        from kgen.export import export_saved_model

        export_saved_model(self, directory, **options)

    def with_settings(self, **settings: Any) -> Self:
        """Returns a model of the same class and networks, with some other constructor arguments.

        With it the training of a model can continue with another objective, for example that of a
        VAE as an IWAE, or
        `kgen.from_preset(directory).with_settings(weighting="sigmoid", ema_decay=0.999)`. The
        networks are shared, not copied. The averaged weights are reset to the present weights. A
        replaced part, such as `prior`, has its own weights.

        Args:
            **settings: arguments of the constructor to change.

        Returns:
            The new model, not compiled.

        Raises:
            ValueError: if the constructor has no such argument, or if a setting changes the shapes
                of the model's weights.
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

    def _own_weights(self) -> list[keras.Variable]:
        """Returns the weights that belong to no layer inside the model, such as a codebook."""
        inside = {id(v) for part in layers_of(self)[1:] for v in part.weights}
        return [v for v in self.weights if id(v) not in inside]


def mask_of(batch: Batch) -> tf.Tensor | None:
    """Returns the mask of a batch, true where a value is known, or None if all values are."""
    return batch.get(MASK) if isinstance(batch, dict) else None


def images_of(batch: Batch) -> tf.Tensor:
    """Returns the examples of a batch, float32: the batch itself, or its entry `"images"`.

    Raises:
        ValueError: if the batch is a dictionary without that entry.
    """
    if isinstance(batch, dict) and "images" not in batch:
        raise ValueError(f'A batch must have the key "images". Received keys: {sorted(batch)}.')
    return tf.cast(batch["images"] if isinstance(batch, dict) else batch, tf.float32)
