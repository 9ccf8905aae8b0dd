"""Validation and ordering of the data of `fit`.

The order of the data is reproducible, so that a resumed training can continue in it.
"""

import hashlib
import itertools
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.types import Batch

WEIGHT = "sample_weight"  # entry of a batch with the weights of examples, as in Keras
ARRAYS = (np.ndarray, tf.Tensor, dict)


def split_weights(data: Any, target_key: str | None = None) -> tuple[Batch, Any]:
    """Splits a batch of Keras into the batch of a kgen model and the weights of its examples.

    Args:
        data: x, `(x, y)` or `(x, y, sample_weight)`; weights may also be the entry
            `"sample_weight"` of a dictionary x.
        target_key: the key of the batch that targets `y` become, or None.

    Returns:
        The batch, and the weights `[B]` or None.

    Raises:
        ValueError: if there are targets other than x that the model does not use, or weights in two
            places.
    """
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    x = with_targets(x, y, target_key)
    if isinstance(x, dict) and WEIGHT in x:
        if weights is not None:
            raise ValueError(f"The data must have `{WEIGHT}` in one place only.")
        x = dict(x)
        weights = x.pop(WEIGHT)
    return x, weights


def with_targets(x: Any, y: Any, target_key: str | None) -> Any:
    """Returns the batch of inputs and targets: `(x, x)` becomes x, other targets the condition.

    Args:
        x: inputs.
        y: targets or None.
        target_key: the key of the batch that targets become, or None.

    Raises:
        ValueError: if the model does not use the targets.
    """
    if y is None or y is x or _equal(x, y):
        return x
    if target_key is not None and not isinstance(x, dict):
        return {"images": x, target_key: y}
    if target_key is not None:
        raise ValueError(
            f'Targets must be the entry "{target_key}" of the batch. '
            f"Received: a dictionary of {sorted(x)} and separate targets."
        )
    raise ValueError(
        "The data must yield inputs only, since models of kgen compute their targets: call "
        "`fit(x)` instead of `fit(x, y)`. To train on labels, give the model a conditioner; to "
        "train on corrupted inputs, a `corruption`."
    )


def _equal(x: Any, y: Any) -> bool:
    """Returns whether targets equal the inputs; in a graph, whether shape and dtype are equal."""
    if isinstance(x, dict) or np.shape(x)[1:] != np.shape(y)[1:] or len(np.shape(x)) < 2:
        return False
    if tf.is_tensor(x) and not tf.executing_eagerly():
        return tf.is_tensor(y) and x.dtype == y.dtype
    return np.shape(x) == np.shape(y) and bool(np.all(np.asarray(x) == np.asarray(y)))


class Data:
    """The validated data of `fit` or `evaluate`, and the remaining options of Keras.

    Args:
        model: a `kgen.training.model.TermsModel`.
        x: an array, a dictionary of arrays, a `tf.data.Dataset`, a `PyDataset`, a generator of
            batches or a data frame.
        y: None, the same as x, or the condition of a conditional model.
        options: options of Keras' `fit` or `evaluate`; those that are handled here are removed.

    Attributes:
        x: the data to pass to Keras.
        y: the targets to pass to Keras, always None.
        options: the options to pass to Keras.
        order: None, or the namespace of `ordered`.

    Raises:
        TypeError: if the data have the wrong type.
        ValueError: if the data have the wrong shape or range, or options are not compatible.
    """

    def __init__(self, model: keras.Model, x: Any, y: Any, options: dict[str, Any]) -> None:
        self.model = model
        self.options = options
        self.order = None
        x, y = _plain(x), _plain(y)
        if options.get("class_weight") is not None:
            options["sample_weight"] = _class_weights(y, options)
        self.x = as_arrays(with_targets(x, y, model.target_key))
        self.y = None
        self.x = self._checked(self.x)
        if options.get("sample_weight") is not None and isinstance(self.x, ARRAYS):
            self.x = with_weights(self.x, options.pop("sample_weight"))
        if options.get("validation_data") is not None:
            options["validation_data"] = self._validation(options["validation_data"])
            _warn_of_shuffled_parts(self.x, options["validation_data"])
        streams = isinstance(self.x, (tf.data.Dataset, types.GeneratorType))
        if streams and "epochs" in options:
            options.setdefault("shuffle", False)  # Keras warns that it cannot shuffle a stream

    def make_reproducible(self, seed: int) -> None:
        """Makes the order of the data reproducible, so that a resumed training can continue."""
        self.x, self.order = ordered(self.x, self.options, seed)
        if isinstance(self.x, tf.data.Dataset):
            self.options["shuffle"] = False

    def _checked(self, x: Any) -> Any:
        """Validates arrays, or the first batch of other data; returns data with all batches."""
        if isinstance(x, types.GeneratorType):
            first = next(x, None)
            x, batch = _chained(first, x), first
        else:
            batch = first_batch(x)
        if batch is not None:
            batch, _ = split_weights(batch, self.model.target_key)
            self.model.check_batch(batch)
            if "epochs" in self.options:
                self.model.warn_about(batch)
        return x

    def _validation(self, data: Any) -> Any:
        """Validates `validation_data` and returns them in the form of `x`."""
        if not isinstance(data, (tuple, list)):
            return self._checked(as_arrays(_plain(data)))
        x, y, weights = keras.utils.unpack_x_y_sample_weight(tuple(data))
        x = as_arrays(with_targets(_plain(x), _plain(y), self.model.target_key))
        x = self._checked(x)
        return x if weights is None else with_weights(x, weights)


def _warn_of_shuffled_parts(x: Any, validation: Any) -> None:
    """Warns if both are parts of a data set that is shuffled anew each time it is read."""
    if not (isinstance(x, tf.data.Dataset) and isinstance(validation, tf.data.Dataset)):
        return
    own = {id(dataset) for dataset in _sources(x)}
    for dataset in _sources(validation):
        if id(dataset) in own and getattr(dataset, "_reshuffle_each_iteration", False):
            warnings.warn(
                "`validation_data` is a part of the same shuffled data set as `x`. In each epoch "
                "it holds other examples, which are also trained on, and a resumed training may "
                "read them in another order. Split before `shuffle`, or use "
                "`shuffle(..., reshuffle_each_iteration=False)`.",
                stacklevel=5,
            )
            return


def _sources(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    """Yields a data set and, recursively, the data sets that it reads."""
    yield dataset
    for source in dataset._inputs():
        yield from _sources(source)


def with_weights(x: Any, weights: Any) -> dict[str, Any]:
    """Adds the weights of examples to arrays as an entry, since Keras drops them without targets.

    Args:
        x: an array, or a dictionary of arrays.
        weights: one number per example.

    Raises:
        ValueError: if there are weights already, or their number is not that of the examples.

    Example:
        >>> sorted(with_weights(np.ones([2, 3]), [1.0, 0.5]))
        ['images', 'sample_weight']
    """
    x = x if isinstance(x, dict) else {"images": x}
    if WEIGHT in x:
        raise ValueError(f"The data must have `{WEIGHT}` in one place only.")
    return as_arrays({**x, WEIGHT: np.asarray(weights, "float32")})


def _chained(first: Any, rest: Iterator) -> Iterator[tuple]:
    """Yields the first batch, which was read for validation, and then the others."""
    for batch in itertools.chain([first], rest):
        yield batch if isinstance(batch, tuple) else (batch,)


def _plain(x: Any) -> Any:
    """Converts a data frame to a float32 array; returns other data unchanged."""
    return np.asarray(x.to_numpy(), "float32") if hasattr(x, "to_numpy") else x


def _class_weights(y: Any, options: dict[str, Any]) -> np.ndarray:
    """Returns the weight of each example, that of its class."""
    classes = options.pop("class_weight")
    if y is None or options.get("sample_weight") is not None:
        raise ValueError(
            "`class_weight` needs labels as `y` and no `sample_weight`. For a data set, give each "
            f"batch an entry {WEIGHT!r}."
        )
    return np.array([classes.get(int(label), 1.0) for label in np.asarray(y)], "float32")


def as_arrays(x: Any) -> Any:
    """Converts a dictionary of arrays so that Keras can batch it; returns other data unchanged.

    Strings become tensors.

    Raises:
        ValueError: if the arrays hold different numbers of examples, or one is a single value.

    Example:
        >>> as_arrays({"prompts": np.array(["a", "b"])})["prompts"].dtype
        tf.string
    """
    if not isinstance(x, dict):
        return x
    arrays = {key: a if tf.is_tensor(a) else np.asarray(a) for key, a in x.items()}
    for key, a in arrays.items():
        if not len(a.shape):
            raise ValueError(
                "The arrays of `x` must hold an entry for each example. "
                f"Received: one value of {key!r}, {x[key]!r}."
            )
    lengths = {key: len(a) for key, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "The arrays of `x` must hold the same number of examples. Received: "
            + ", ".join(f"{num} of {key!r}" for key, num in lengths.items())
            + "."
        )
    return {key: tf.constant(a) if _is_text(a) else a for key, a in arrays.items()}


def _is_text(a: Any) -> bool:
    """Returns whether an array holds strings or bytes."""
    kind = "" if tf.is_tensor(a) else a.dtype.kind
    return kind in ("S", "U") or (kind == "O" and all(isinstance(v, (str, bytes)) for v in a.flat))


def first_batch(x: Any) -> Any:
    """Returns the arrays of `fit`, or the first batch of its data set; None for other data.

    Raises:
        ValueError: if the data set is empty.
    """
    if isinstance(x, tf.data.Dataset):
        x = next(iter(x.take(1)), None)
        if x is None:
            raise ValueError("`x` must hold at least one example. Received: an empty data set.")
        return x
    if isinstance(x, keras.utils.PyDataset):
        return x[0]
    return x if isinstance(x, ARRAYS) else None


def ordered(x: Any, options: dict[str, Any], seed: int) -> tuple[Any, types.SimpleNamespace]:
    """Converts data to a data set in a reproducible order, so that a training can be resumed.

    Args:
        x: arrays or a data set.
        options: options of `fit`; those that are handled here are removed, and `steps_per_epoch` is
            added.
        seed: integer seed of the order of arrays.

    Returns:
        The data set, and a namespace with the attributes `dataset` (the data set),
        `steps_per_epoch` (as requested, or None) and `description` (strings and numbers that
        identify the data and the batches).
    """
    description = {}
    if isinstance(x, ARRAYS):
        arrays = tf.nest.map_structure(tf.convert_to_tensor, x)
        weights = options.pop("sample_weight", None)
        if weights is not None:
            arrays = arrays if isinstance(arrays, dict) else {"images": arrays}
            arrays = {**arrays, WEIGHT: tf.convert_to_tensor(weights)}
        num = len(tf.nest.flatten(arrays)[0])
        if options.get("validation_split"):  # the last examples, as in Keras
            num = int(num * (1 - options.pop("validation_split")))
            options["validation_data"] = tf.nest.map_structure(lambda a: a[num:], arrays)
            arrays = tf.nest.map_structure(lambda a: a[:num], arrays)
        batch_size = options.pop("batch_size", None) or 32
        description = {"examples": num, "batch size": batch_size, "values": _sample(arrays)}
        x = tf.data.Dataset.range(num)
        if options.pop("shuffle", True):
            x = x.shuffle(num, seed=seed)
        x = x.batch(batch_size)
        x = x.map(lambda rows: tf.nest.map_structure(lambda a: tf.gather(a, rows), arrays))
        x = x.prefetch(2)
    steps = options.get("steps_per_epoch")
    if isinstance(x, tf.data.Dataset):
        description |= {"form": repr(x.element_spec), "batches": int(x.cardinality())}
    if steps is None and isinstance(x, tf.data.Dataset) and int(x.cardinality()) > 0:
        # Without `steps_per_epoch` Keras opens a data set twice in an epoch.
        options["steps_per_epoch"] = int(x.cardinality())
    elif steps is None:
        warnings.warn(
            "`x` has no known length, so that a resumed training may read it in another order. Use "
            "`x.apply(tf.data.experimental.assert_cardinality(num_batches))`.",
            stacklevel=5,
        )
    description["steps per epoch"] = options.get("steps_per_epoch")
    order = types.SimpleNamespace(dataset=x, steps_per_epoch=steps, description=description)
    return x, order


def _sample(arrays: Any) -> str:
    """Returns a sha256 of eight examples of the arrays, from the first to the last."""
    digest = hashlib.sha256()
    for array in tf.nest.flatten(arrays):
        for i in np.unique(np.linspace(0, len(array) - 1, 8).astype(int)):
            value = array[int(i)].numpy()
            digest.update(value if isinstance(value, bytes) else np.asarray(value).tobytes())
    return digest.hexdigest()
