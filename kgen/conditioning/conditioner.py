"""What a conditional model is given beside the noisy value: a dictionary of tensors, batch first.

    values --prepare--> rows --call--> condition

`values` are what a person or a data set gives: prompts, labels, numbers, pictures. `rows` are the
same as tensors that a graph can compute with (ids in the place of strings). The condition is what
networks read; they look at the keys they know:

    pooled    [B, D]        joins the embedding of the noise level
    tokens    [B, L, D]     are attended to, where
    mask      [B, L]        is true
    picture   [B, h, w, c]  is concatenated to the input

Every conditioner also has a null condition, which classifier-free guidance needs twice: in
training, in place of a share of the conditions (`drop_condition`), and in sampling, for the
unconditional prediction.

A conditioner of one's own is a subclass with `call`, `null` and `signature`, and with `prepare`
where values are not tensors already. It then works in `fit`, guidance, `generate`, `precompute` and
exports; nothing outside of this room asks of which kind a conditioner is.

References:
  Classifier-free guidance: Ho and Salimans (2022), section 3.1, https://arxiv.org/abs/2207.12598.
"""

import abc
import contextlib
import contextvars

import keras
import numpy as np
import tensorflow as tf

from kgen.tensors import fingerprint

KEYS = ("pooled", "tokens", "mask", "picture")  # what a condition may hold
_SIZE = contextvars.ContextVar("size", default=None)


class Conditioner(keras.layers.Layer, abc.ABC):
    """Abstract: the map from prompts, labels or other values to a condition.

    Attributes:
        batch_key: the entry of a batch that the conditioner reads, such as `"prompts"`.
        forms: what a server may take in the place of the values, see `signature`: a dictionary
            from names to endings of the functions of such a server.
        adapted: whether a few weights inside are trained though the conditioner is frozen.
    """

    batch_key = None
    forms = {}
    adapted = False

    def __call__(self, values, training=False):
        """Returns the condition of values, of rows, or of what is a condition already."""
        if is_condition(values):
            return {key: tf.convert_to_tensor(value) for key, value in values.items()}
        return super().__call__(self.prepare(values), training=training)

    @abc.abstractmethod
    def call(self, rows, training=False):
        """Encodes rows.

        Args:
            rows: what `prepare` returned, B rows.
            training: whether layers such as dropout are active.

        Returns:
            A dictionary of tensors with the keys of `KEYS`, each with B rows.
        """

    @abc.abstractmethod
    def null(self, batch_size):
        """Returns the condition that says nothing.

        Args:
            batch_size: B, an integer or a scalar int32 tensor.

        Returns:
            A dictionary of the keys and types of `call`, with B rows.
        """

    @abc.abstractmethod
    def signature(self, form=None):
        """Returns the tensors that a server takes.

        Args:
            form: None for the values themselves, or one of `forms`.

        Returns:
            A dictionary of `tf.TensorSpec`s by the name of the argument; of one entry its tensor is
            what `prepare` is given, of several the dictionary.
        """

    def values_of(self, batch):
        """Returns what a batch, a dictionary, has for the conditioner.

        Raises:
            ValueError: if the batch has no such entry.
        """
        if self.batch_key not in batch:
            raise ValueError(
                f'A batch must have the key "{self.batch_key}". Received keys: {sorted(batch)}.'
            )
        return batch[self.batch_key]

    def as_batch(self, rows):
        """Returns rows as entries of a batch, from which `values_of` gets them back."""
        return {self.batch_key: rows}

    def prepare(self, values):
        """Checks values and makes rows of them; in a graph too. Rows are returned as they are.

        Args:
            values: one value, or a sequence or tensor of B of them; or rows.

        Returns:
            A tensor, or a dictionary of tensors, with B rows.

        Raises:
            TypeError: if a value is of another type.
            ValueError: if there is no value, or one is out of range.
        """
        return tf.convert_to_tensor(values)

    def embed(self, values, batch_size=256, progress=True):
        """Encodes many values, some at a time.

        Args:
            values: what `prepare` takes, N of them.
            batch_size: rows that are encoded at once.
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

    def clear_cache(self):
        """Forgets what `embed` may have kept."""

    def graph_checks(self, values):
        """Returns what an export checks of values beyond what `prepare` does in a graph.

        Args:
            values: tensors, as `prepare` takes them.

        Returns:
            A list of pairs of a boolean scalar and the message of the error if it is false.
        """
        return []

    def resources(self):
        """Returns the trackable objects, beside variables, that a SavedModel of it needs."""
        return []

    def write_vocabulary(self, folder):
        """Writes what a client needs to make the tensors of `signature` of texts.

        Args:
            folder: a directory, made if something is written.

        Returns:
            A dictionary for JSON that describes it; by default empty, and nothing is written.
        """
        return {}

    def fingerprint(self):
        """Returns the sha256 of all that a condition depends on: by default the weights."""
        return fingerprint(self.weights)

    @property
    def changes(self):
        """Whether training changes what the conditioner returns."""
        return bool(self.trainable) or self.adapted

    def networks(self):
        """Returns the networks inside that can have a LoRA, by their names in files."""
        return {}

    def adapt(self, on):
        """Is called when a few weights inside begin to be trained, and when they no longer are."""
        self.adapted = on
        self.clear_cache()


@contextlib.contextmanager
def pictures_of(size):
    """Within it, conditions are those of pictures of a size, for conditioners that encode it.

    Args:
        size: `(height, width)` in pixels, or None for the conditioner's own.

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


def size_of_pictures():
    """Returns the size of the pictures that conditions are made for, or None."""
    return _SIZE.get()


def is_condition(values):
    """Whether values are a condition already: a dictionary with keys of `KEYS` only.

    Example:
        >>> is_condition({"pooled": 0}), is_condition({"token_ids": 0}), is_condition("a prompt")
        (True, False, False)
    """
    return isinstance(values, dict) and bool(values) and set(values) <= set(KEYS)


def num_rows(rows):
    """Returns the number of rows of a tensor, or of each tensor of a dictionary.

    Raises:
        ValueError: if the tensors have different numbers of rows, or none.
    """
    lengths = {int(np.shape(row)[0]) for row in tf.nest.flatten(rows)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"A condition must have at least one row, in each tensor as many. Received: {lengths}."
        )
    return lengths.pop()
