"""The data of `fit`: validated, and in an order in which a resumed training can continue."""

import hashlib
import itertools
import types
import warnings

import keras
import numpy as np
import tensorflow as tf

WEIGHT = "sample_weight"  # an entry of a batch, as Keras' argument of that name
ARRAYS = (np.ndarray, tf.Tensor, dict)


def split_weights(data, target_key=None):
    """Returns the batch of a data set, and the weights of its examples or None.

    Args:
        data: x, `(x, y)` or `(x, y, sample_weight)`, as Keras yields it; weights may also be the
            entry `"sample_weight"` of a dictionary.
        target_key: the entry of a batch that targets `y` become, or None.

    Raises:
        ValueError: if `y` is not x, and the model has no use for it.
    """
    x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
    x = with_targets(x, y, target_key)
    if isinstance(x, dict) and WEIGHT in x:
        if weights is not None:
            raise ValueError(f"The data must have `{WEIGHT}` in one place only.")
        x = dict(x)
        weights = x.pop(WEIGHT)
    return x, weights


def with_targets(x, y, target_key):
    """Returns a batch for x and targets: `(x, x)` becomes x, other targets become the condition.

    Raises:
        ValueError: if the model has no condition that the targets could be.
    """
    if y is None or y is x or _alike(x, y):
        return x
    if target_key is not None and not isinstance(x, dict):
        return {"images": x, target_key: y}
    if target_key is not None:
        raise ValueError(
            f'Targets must be the entry "{target_key}" of the batch. '
            f"Received: a dictionary of {sorted(x)} and targets beside it."
        )
    raise ValueError(
        "The data must yield inputs only: kgen's models bring their own targets, so `fit(x, y)` "
        "becomes `fit(x)`. To train on labels, give the model a conditioner; to train on damaged "
        "inputs, a `corruption`."
    )


def _alike(x, y):
    """Returns whether targets equal the inputs; in a graph, whether shape and dtype are equal."""
    if isinstance(x, dict) or np.shape(x)[1:] != np.shape(y)[1:] or len(np.shape(x)) < 2:
        return False
    if tf.is_tensor(x) and not tf.executing_eagerly():
        return tf.is_tensor(y) and x.dtype == y.dtype
    return np.shape(x) == np.shape(y) and bool(np.all(np.asarray(x) == np.asarray(y)))


class Data:
    """The validated data of `fit` or `evaluate`, and the remaining options of Keras.

    Args:
        model: a model with `target_key` and `check_batch`.
        x: arrays, a dictionary of arrays, a `tf.data.Dataset`, a `PyDataset`, a generator of
            batches or a data frame.
        y: None; x; or the condition of a conditional model.
        options: options of Keras' `fit` or `evaluate`; those that are handled here are removed.

    Raises:
        ValueError: if the data are not what the model learns from.
    """

    def __init__(self, model, x, y, options):
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
            options.setdefault("shuffle", False)  # Keras would warn that it cannot

    def put_in_order(self, seed):
        """Makes the order of the data reproducible, so that a resumed training can continue."""
        self.x, self.order = ordered(self.x, self.options, seed)
        if isinstance(self.x, tf.data.Dataset):
            self.options["shuffle"] = False

    def _checked(self, x):
        """Validates arrays, or the first batch of other data, which is still trained on."""
        if isinstance(x, types.GeneratorType):
            first = next(x, None)
            x, batch = _again(first, x), first
        else:
            batch = first_batch(x)
        if batch is not None:
            batch, _ = split_weights(batch, self.model.target_key)
            self.model.check_batch(batch)
            if "epochs" in self.options:
                self.model.warn_about(batch)
        return x

    def _validation(self, data):
        if not isinstance(data, (tuple, list)):
            return self._checked(as_arrays(_plain(data)))
        x, y, weights = keras.utils.unpack_x_y_sample_weight(tuple(data))
        x = as_arrays(with_targets(_plain(x), _plain(y), self.model.target_key))
        x = self._checked(x)
        return x if weights is None else with_weights(x, weights)


def _warn_of_shuffled_parts(x, validation):
    """Warns where both are parts of data that are shuffled anew each time they are read."""
    if not (isinstance(x, tf.data.Dataset) and isinstance(validation, tf.data.Dataset)):
        return
    own = {id(dataset) for dataset in _sources(x)}
    for dataset in _sources(validation):
        if id(dataset) in own and getattr(dataset, "_reshuffle_each_iteration", False):
            warnings.warn(
                "`validation_data` is a part of the same shuffled data set as `x`: other examples "
                "in each epoch, which training sees too, and a training that is resumed may see "
                "them in another order. Split before `shuffle`, or use "
                "`shuffle(..., reshuffle_each_iteration=False)`.",
                stacklevel=5,
            )
            return


def _sources(dataset):
    """A data set and all that it is made of."""
    yield dataset
    for source in dataset._inputs():
        yield from _sources(source)


def with_weights(x, weights):
    """Adds the weights of examples to arrays as an entry, since Keras drops them without targets.

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


def _again(first, rest):
    """Yields the first batch, which was read for validation, and then the others."""
    for batch in itertools.chain([first], rest):
        yield batch if isinstance(batch, tuple) else (batch,)


def _plain(x):
    """Converts a data frame to a float32 array; returns other data unchanged."""
    return np.asarray(x.to_numpy(), "float32") if hasattr(x, "to_numpy") else x


def _class_weights(y, options):
    """Returns the weight of each example, that of its class."""
    classes = options.pop("class_weight")
    if y is None or options.get("sample_weight") is not None:
        raise ValueError(
            "`class_weight` needs labels as `y` and no `sample_weight`. For a data set, give each "
            f"batch an entry {WEIGHT!r}."
        )
    return np.array([classes.get(int(label), 1.0) for label in np.asarray(y)], "float32")


def as_arrays(x):
    """Converts a dictionary of arrays so that Keras can batch it; returns other data unchanged.

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


def _is_text(a):
    kind = "" if tf.is_tensor(a) else a.dtype.kind
    return kind in ("S", "U") or (kind == "O" and all(isinstance(v, (str, bytes)) for v in a.flat))


def first_batch(x):
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


def ordered(x, options, seed):
    """Makes a data set of reproducible order, in which a resumed training can continue.

    Args:
        x: arrays or a data set.
        options: options of `fit`; those that are handled here are removed, and `steps_per_epoch` is
            added.
        seed: integer seed of the order of arrays.

    Returns:
        The data set, and a namespace: `dataset` and `steps_per_epoch` as requested, and
        `description`, plain values that identify these data and batches.
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
            "`x` has no known length, so that a training that is resumed may see it in another "
            "order. Use `x.apply(tf.data.experimental.assert_cardinality(num_batches))`.",
            stacklevel=5,
        )
    description["steps per epoch"] = options.get("steps_per_epoch")
    order = types.SimpleNamespace(dataset=x, steps_per_epoch=steps, description=description)
    return x, order


def _sample(arrays):
    """Returns a sha256 of some examples of arrays: the first, the last and some between."""
    digest = hashlib.sha256()
    for array in tf.nest.flatten(arrays):
        for i in np.unique(np.linspace(0, len(array) - 1, 8).astype(int)):
            value = array[int(i)].numpy()
            digest.update(value if isinstance(value, bytes) else np.asarray(value).tobytes())
    return digest.hexdigest()
