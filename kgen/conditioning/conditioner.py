"""The abstract base of conditioners, which encode the condition of a model.

    values --prepare--> rows --call--> condition

`values` are inputs of a user or a data set: prompts, labels, numbers or pictures. `rows` are their
tensors, with which a graph can compute (ids instead of strings). The condition is a dictionary of
tensors, with one or several of the keys

    pooled    [B, D]        added to the embedding of the noise level
    tokens    [B, L, D]     the keys and values of cross-attention
    mask      [B, L]        true for the tokens that are attended to
    picture   [B, h, w, c]  concatenated to the input

Every conditioner also has a null condition. Classifier-free guidance uses it in training, in place
of a share of the conditions (`drop_condition`), and in sampling, for the unconditional prediction.

A new conditioner is a subclass that defines `call`, `null` and `signature`, and `prepare` if its
values are not tensors. It then works in `fit`, guidance, `generate`, `precompute` and exports,
since only the package `kgen.conditioning` distinguishes kinds of conditioners.

References:
  Classifier-free guidance: Ho and Salimans (2022), section 3.1, https://arxiv.org/abs/2207.12598.
"""

import abc
import contextlib
import contextvars
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.tensors import fingerprint

KEYS = ("pooled", "tokens", "mask", "picture")  # the possible keys of a condition
_SIZE = contextvars.ContextVar("size", default=None)


class Conditioner(keras.layers.Layer, abc.ABC):
    """Abstract base of conditioners, which map prompts, labels or other values to a condition.

    Attributes:
        batch_key: the key of the values in a batch, such as `"prompts"`.
        forms: alternative inputs of an export (see `signature`): a dictionary from the name of the
            form to the suffix of the names of its functions.
        adapted: whether a few weights of a frozen conditioner are trained (LoRA, new words).
    """

    batch_key = None
    forms = {}
    adapted = False

    def __call__(self, values: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Encodes values or rows; returns an encoded condition unchanged.

        Args:
            values: values or rows, see `prepare`, or an encoded condition.
            training: whether layers such as dropout are active.
        """
        if is_condition(values):
            return {key: tf.convert_to_tensor(value) for key, value in values.items()}
        return super().__call__(self.prepare(values), training=training)

    @abc.abstractmethod
    def call(self, rows: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Encodes rows.

        Args:
            rows: B rows, the output of `prepare`.
            training: whether layers such as dropout are active.

        Returns:
            A dictionary of tensors with keys of `KEYS`, each with B rows.
        """

    @abc.abstractmethod
    def null(self, batch_size: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the null condition, that of the unconditional model.

        Args:
            batch_size: B, an integer or a scalar int32 tensor.

        Returns:
            A dictionary with the keys and dtypes of `call`, with B rows.
        """

    @abc.abstractmethod
    def signature(self, form: str | None = None) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of an export.

        Args:
            form: None for the values themselves, or a key of `forms`.

        Returns:
            A dictionary of `tf.TensorSpec`s by the name of the argument. If it has one entry,
            `prepare` receives the tensor, else the dictionary of tensors.
        """

    def values_of(self, batch: Mapping[str, Any]) -> Any:
        """Returns the values of a batch for this conditioner.

        Args:
            batch: a dictionary.

        Raises:
            ValueError: if the batch has no such entry.
        """
        if self.batch_key not in batch:
            raise ValueError(
                f'A batch must have the key "{self.batch_key}". Received keys: {sorted(batch)}.'
            )
        return batch[self.batch_key]

    def as_batch(self, rows: Any) -> dict[str, Any]:
        """Returns rows as entries of a batch; the inverse of `values_of`."""
        return {self.batch_key: rows}

    def prepare(self, values: Any) -> Any:
        """Validates values and converts them to rows, also in a graph; returns rows unchanged.

        Args:
            values: one value, a sequence or tensor of B values, or rows.

        Returns:
            A tensor, or a dictionary of tensors, with B rows.

        Raises:
            TypeError: if a value has the wrong type.
            ValueError: if there is no value, or one is out of range.
        """
        return tf.convert_to_tensor(values)

    def embed(
        self, values: Any, batch_size: int = 256, progress: bool = True
    ) -> dict[str, np.ndarray]:
        """Encodes many values in batches.

        Args:
            values: N values or rows, see `prepare`.
            batch_size: number of rows that are encoded at once.
            progress: whether to print a progress bar, if there is more than one batch.

        Returns:
            The condition as numpy arrays with N rows.
        """
        rows = self.prepare(values)
        num, parts = num_rows(rows), []
        bar = keras.utils.Progbar(num, verbose=int(progress and num > batch_size))
        for start in range(0, num, batch_size):
            stop = min(start + batch_size, num)
            part = tf.nest.map_structure(lambda row: row[start:stop], rows)  # noqa: B023
            parts.append({key: value.numpy() for key, value in self(part).items()})
            bar.add(stop - start)
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def clear_cache(self) -> None:
        """Discards the embeddings that `embed` has cached, if it caches any."""

    def graph_checks(self, values: Any) -> list[tuple[tf.Tensor, str]]:
        """Returns the checks of values that an export makes in addition to those of `prepare`.

        Args:
            values: tensors as of `signature`.

        Returns:
            A list of pairs of a boolean scalar tensor and the error message if it is false.
        """
        return []

    def resources(self) -> list[Any]:
        """Returns the trackable objects, other than variables, that a SavedModel needs."""
        return []

    def write_vocabulary(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes the files with which a client converts texts to the tensors of `signature`.

        By default there are none.

        Args:
            folder: directory to write; created if there are files.

        Returns:
            A description of the files, a dictionary that can be written as JSON; by default empty.
        """
        return {}

    def fingerprint(self) -> str:
        """Returns a sha256 of everything on which a condition depends: here of the weights."""
        return fingerprint(self.weights)

    @property
    def changes(self) -> bool:
        """Whether training changes what the conditioner returns."""
        return bool(self.trainable) or self.adapted

    def networks(self) -> dict[str, keras.layers.Layer]:
        """Returns the networks that can have a LoRA, by the names that files give them."""
        return {}

    def adapt(self, on: bool) -> None:
        """Starts or ends the training of a few weights of a frozen conditioner.

        Args:
            on: whether some weights (those of a LoRA or of new words) are trained from now on.
        """
        self.adapted = on
        self.clear_cache()


@contextlib.contextmanager
def pictures_of(size: Sequence[int] | None) -> Iterator[None]:
    """A context that sets the size of the pictures, for conditioners that encode it.

    Args:
        size: `(height, width)` in pixels, or None for the default of the conditioner.

    Example:
        >>> with pictures_of((64, 48)):
        ...     size_of_pictures()
        (64, 48)
    """
    token = _SIZE.set(size)
    try:
        yield
    finally:
        _SIZE.reset(token)


def size_of_pictures() -> Sequence[int] | None:
    """Returns the size `(height, width)` that `pictures_of` has set, or None."""
    return _SIZE.get()


def is_condition(values: Any) -> bool:
    """Returns whether values are an encoded condition: a dictionary with keys of `KEYS` only.

    Example:
        >>> is_condition({"pooled": 0}), is_condition({"token_ids": 0}), is_condition("a prompt")
        (True, False, False)
    """
    return isinstance(values, dict) and bool(values) and set(values) <= set(KEYS)


def num_rows(rows: Any) -> int:
    """Returns the number of rows of a tensor, or of each tensor of a dictionary.

    Raises:
        ValueError: if the tensors have different numbers of rows, or none.
    """
    lengths = {int(np.shape(row)[0]) for row in tf.nest.flatten(rows)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "The tensors of a condition must have the same number of rows, at least one. "
            f"Received: {sorted(lengths)}."
        )
    return lengths.pop()
