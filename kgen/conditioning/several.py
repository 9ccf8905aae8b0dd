"""Several conditions at once, such as a text and a class.

Conditions with the same key are concatenated: `pooled` vectors and `picture` channels on the last
axis, `tokens` along the sequence.
"""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf

from kgen.conditioning.conditioner import KEYS, Conditioner
from kgen.serialization import serializable

AXES = {"pooled": -1, "tokens": 1, "mask": 1, "picture": -1}


@serializable
class Several(Conditioner):
    """A conditioner that combines several conditioners.

    Values are dictionaries by the names of the conditioners. For a name that is missing, `generate`
    uses the null condition. In training, all conditions of an example are dropped together.

    Args:
        conditioners: a dictionary of `Conditioner`s by name. In a batch, the values of each have
            the key `batch_key` of the conditioner.
        **kwargs: `name` and `dtype` of a Keras layer.

    Raises:
        TypeError: if a value of `conditioners` is not a `Conditioner`.
        ValueError: if there is no conditioner, a name is a key of a condition such as `"pooled"`,
            or two conditioners have the same `batch_key`.

    Example:
        >>> from kgen.conditioning import Labels, Vector
        >>> both = Several({"labels": Labels(3, 4), "position": Vector(2, 8)})
        >>> both({"labels": [0, 2], "position": [[0.0, 1.0], [1.0, 0.0]]})["pooled"].shape
        TensorShape([2, 12])
    """

    def __init__(self, conditioners: Mapping[str, Conditioner], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(conditioners, dict) or not conditioners:
            raise ValueError(
                f"`conditioners` must be a dictionary of at least one. Received: {conditioners!r}."
            )
        if set(conditioners) & set(KEYS):
            raise ValueError(
                f"`conditioners` must have other names than {KEYS}. "
                f"Received: {sorted(conditioners)}."
            )
        for name, conditioner in conditioners.items():
            if not isinstance(conditioner, Conditioner):
                raise TypeError(
                    f"`conditioners` must be Conditioners. Received: {name!r}: {conditioner!r}."
                )
        keys = [conditioner.batch_key for conditioner in conditioners.values()]
        if len(set(keys)) < len(keys):
            raise ValueError(
                f"`conditioners` must each have a `batch_key` of their own. Received: {keys}."
            )
        self.conditioners = dict(conditioners)
        self.batch_key = None
        self.built = True

    def values_of(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values of a batch for all conditioners, by their names."""
        return {name: one.values_of(batch) for name, one in self.conditioners.items()}

    def as_batch(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Returns rows as entries of a batch, each under the `batch_key` of its conditioner."""
        entries = {}
        for name, row in rows.items():
            entries |= self.conditioners[name].as_batch(row)
        return entries

    def prepare(self, values: Any) -> dict[str, Any]:
        """Validates values and converts them to rows.

        Args:
            values: a dictionary of the values of some or all conditioners, by their names.

        Returns:
            A dictionary of rows by name.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if there is no value, a name is unknown, or a value is out of range.
        """
        if not isinstance(values, dict) or not values or not set(values) <= set(self.conditioners):
            received = sorted(values) if isinstance(values, dict) else repr(values)
            raise ValueError(
                f"A condition must be a dictionary with keys of {sorted(self.conditioners)}. "
                f"Received: {received}."
            )
        return {name: self.conditioners[name].prepare(value) for name, value in values.items()}

    def call(self, rows: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the concatenated condition; for a missing name, with its null condition."""
        size = tf.shape(tf.nest.flatten(rows)[0])[0]
        return _joined(
            one(rows[name], training=training) if name in rows else one.null(size)
            for name, one in self.conditioners.items()
        )

    def null(self, batch_size: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the concatenated null condition."""
        return _joined(one.null(batch_size) for one in self.conditioners.values())

    def signature(self, form: str | None = None) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of an export, those of all conditioners.

        Raises:
            ValueError: if a conditioner has more than one input.
        """
        specs = {}
        for name, one in self.conditioners.items():
            own = one.signature()
            if len(own) != 1:
                raise ValueError(f"The conditioner {name!r} must take one tensor. Received: {own}.")
            (spec,) = own.values()
            specs[name] = tf.TensorSpec(spec.shape, spec.dtype, name)
        return specs

    def graph_checks(self, values: Any) -> list[tuple[tf.Tensor, str]]:
        """Returns the checks of all conditioners."""
        return [
            check
            for name, one in self.conditioners.items()
            for check in one.graph_checks(values[name])
        ]

    def resources(self) -> list[Any]:
        """Returns the trackable objects that a SavedModel of the conditioners needs."""
        return [found for one in self.conditioners.values() for found in one.resources()]

    def write_vocabulary(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes the vocabulary of each conditioner, in a folder of its name.

        Returns:
            The descriptions that are not empty, `{"conditioners": {name: ...}}`.
        """
        descriptions = {
            name: one.write_vocabulary(folder / name) for name, one in self.conditioners.items()
        }
        return {"conditioners": {name: found for name, found in descriptions.items() if found}}

    def fingerprint(self) -> str:
        """Returns the concatenated fingerprints of the conditioners."""
        return "".join(one.fingerprint() for one in self.conditioners.values())


def _joined(conditions: Iterable[Mapping[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
    parts = {}
    for condition in conditions:
        for key, value in condition.items():
            parts.setdefault(key, []).append(value)
    return {
        key: tf.concat([tf.cast(v, values[0].dtype) for v in values], AXES[key])
        for key, values in parts.items()
    }
