"""A cache of latents and conditions on disk, for training with frozen encoders.

If the autoencoder and the text encoder are frozen, the moments of a picture's latents and the
embedding of a caption do not change in training. `LatentCache.write` computes them once for a data
set, and training reads them:

    moments.npy       [N, h, w, 2 c]    mean and log standard deviation of the latents
    rows.npy          [N]               row of the condition of each example
    condition.*.npy   [P, ...]          one row for each distinct condition
    weights.npy       [N]               weights of the examples, if there are any

The files are memory-mapped, written in pieces and read by rows, so that they may be larger than
memory. `meta.json` is written last: a folder without it is incomplete and is written again. It
identifies the encoders and the data of the cache, so that a cache of others is refused.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from tokenize import TokenError
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from kgen.files.folders import inside
from kgen.files.text import read_json, reason
from kgen.types import Path, TensorLike

META = "meta.json"
SAMPLED = 3  # number of batches from which a data set is identified
SHA256 = 64  # length of a sha256 in hexadecimal


class LatentCache:
    """A complete cache, opened for reading.

    Args:
        directory: the folder in which `write` created the cache.
        source: fingerprint of the encoders that the cache must be of, see `write`; None for any.
        dataset: the data set that the cache must be of; None for any.

    Raises:
        FileNotFoundError: if the cache is not complete.
        ValueError: if the cache is damaged, or was written with other encoders or other data; the
            message says what differs.
    """

    def __init__(
        self, directory: Path, source: str | None = None, dataset: tf.data.Dataset | None = None
    ) -> None:
        directory = pathlib.Path(directory)
        if not self.exists(directory):
            raise FileNotFoundError(
                f"`directory` must be a complete cache of latents. Received: {directory}."
            )
        meta = read_json(inside(directory, META))
        if not isinstance(meta, dict) or not _are_names(meta.get("conditions")):
            raise ValueError(f"{directory / META} is damaged: it must name arrays of the folder.")
        if source not in (None, meta.get("source")):
            raise ValueError(
                "`directory` must hold latents of this autoencoder and conditioner. Received: "
                f"{directory}, written with another {_differing_encoders(source, meta)}; pass "
                "another folder, or remove it to write it again."
            )
        if dataset is not None and meta.get("data") not in (None, data_fingerprint(dataset)):
            raise ValueError(
                f"`directory` must hold latents of these data. Received: {directory}, written from "
                f"data with another {_differing_data(dataset, meta)}; pass another folder, or "
                "remove it to write it again."
            )
        self.moments, self.rows = (_map(directory, name) for name in ("moments", "rows"))
        self.conditions = {key: _map(directory, key) for key in meta["conditions"]}
        self.weights = _map(directory, "weights") if meta.get("weights") else None

    @staticmethod
    def exists(directory: Path) -> bool:
        """Returns whether `directory` holds a complete cache."""
        return (pathlib.Path(directory) / META).is_file()

    @classmethod
    def write(
        cls,
        directory: Path,
        dataset: tf.data.Dataset,
        read: Callable[[Any], tuple[Any, Any, Any]],
        moments: Callable[[tf.Tensor], tf.Tensor],
        encode: Callable[[Any], dict[str, Any]] | None,
        source: str,
    ) -> Self:
        """Encodes a data set and writes the cache.

        Args:
            directory: the folder; created if missing.
            dataset: finite batches.
            read: a function of a batch that returns its pictures, the values of its condition and
                the weights of its examples or None.
            moments: a function of pictures that returns the mean and log standard deviation of
                their latents, `[B, h, w, 2 c]`.
            encode: a function of the values of conditions that returns nested dictionaries of
                arrays with one row per value; None without a condition.
            source: a string that identifies the encoders: the sha256 of the autoencoder's encoder,
                followed by the fingerprint of the conditioner, if it is frozen.

        Returns:
            The `LatentCache`.

        Raises:
            ValueError: if the data set is empty.
        """
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / META).unlink(missing_ok=True)
        latents, rows, weights, distinct = None, [], [], Distinct()
        print("Encoding pictures")
        bar = keras.utils.Progbar(_length(dataset))
        for batch in dataset:
            images, values, weight = read(batch)
            if weight is not None:
                weights.append(np.asarray(weight, "float32"))
            latents = latents or _Appender(directory / "moments.npy")
            latents.append(moments(images))
            if encode is not None:
                rows += distinct.add(values)
            bar.add(1)
        if latents is None:
            raise ValueError("`dataset` must yield at least one batch. Received an empty one.")
        latents.close()
        np.save(directory / "rows.npy", np.array(rows, "int32"))
        if weights:
            np.save(directory / "weights.npy", np.concatenate(weights))
        tables = {}
        if encode is not None:
            print(f"Encoding {len(distinct)} distinct conditions")
            bar = keras.utils.Progbar(len(distinct))
            for values, size in distinct.parts(256):
                for key, value in _flat(encode(values)).items():
                    if key not in tables:
                        tables[key] = _Appender(directory / f"{key}.npy")
                    tables[key].append(value)
                bar.add(size)
        for table in tables.values():
            table.close()
        meta = {
            "conditions": sorted(tables),
            "weights": bool(weights),
            "source": source,
            "data": data_fingerprint(dataset),
            "elements": _elements(dataset),
            "batches": _length(dataset),
        }
        (directory / META).write_text(json.dumps(meta))
        return cls(directory, source)

    def dataset(self, batch_size: int = 64, shuffle: bool = True, seed: int = 0) -> tf.data.Dataset:
        """Returns a data set of batches `{"moments": [B, h, w, 2 c], ...}`.

        The encoded condition is the entry `"condition"`, a dictionary; for a conditioner that is
        trained, its inputs are entries instead.

        Args:
            batch_size: size of a batch; at most the number of examples is used.
            shuffle: whether to shuffle the examples again in each epoch and drop an incomplete last
                batch.
            seed: integer seed of the order.
        """
        batch_size = min(batch_size, len(self.moments))
        keys = sorted(self.conditions)
        weights = [] if self.weights is None else [self.weights]
        arrays = [self.moments, *weights, *(self.conditions[key] for key in keys)]
        names = ["moments", *("sample_weight" for _ in weights), *keys]

        def read(indices: np.ndarray) -> list[np.ndarray]:
            rows = self.rows[indices] if keys else ()
            values = [a[indices] for a in (self.moments, *weights)]
            return values + [self.conditions[key][rows] for key in keys]

        def batch(indices: tf.Tensor) -> dict[str, Any]:
            values = tf.numpy_function(read, [indices], [tf.as_dtype(a.dtype) for a in arrays])
            for value, array in zip(values, arrays):
                value.set_shape([batch_size if shuffle else None, *array.shape[1:]])
            # TensorFlow converts several times as fast as NumPy.
            values = [tf.cast(v, tf.float32) if v.dtype == tf.float16 else v for v in values]
            return _nested(dict(zip(names, values)))

        indices = tf.data.Dataset.range(len(self.moments))
        if shuffle:
            indices = indices.shuffle(len(self.moments), seed=seed)
        indices = indices.batch(batch_size, drop_remainder=shuffle)
        return indices.map(batch, num_parallel_calls=1).prefetch(4)


class Distinct:
    """A list of distinct values, in the order in which they were first added.

    Example:
        >>> distinct = Distinct()
        >>> distinct.add(np.array(["a", "b", "a"])), len(distinct)
        ([0, 1, 0], 2)
    """

    def __init__(self) -> None:
        self._numbers = {}
        self._kept = []
        self._structure = None

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, values: Any) -> list[int]:
        """Adds values that are not in the list yet, and returns the position of each.

        Args:
            values: nested arrays with one row per value.
        """
        leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(values)]
        self._structure = values
        numbers = []
        for row in zip(*leaves):
            key = hashlib.blake2b(b"\0".join(map(_bytes, row)), digest_size=16).digest()
            if key not in self._numbers:
                self._numbers[key] = len(self._kept)
                self._kept.append(row)
            numbers.append(self._numbers[key])
        return numbers

    def parts(self, size: int) -> Iterator[tuple[Any, int]]:
        """Yields the distinct values, at most `size` at a time, with their number."""
        for start in range(0, len(self._kept), size):
            rows = self._kept[start : start + size]
            leaves = [tf.constant(np.array(leaf)) for leaf in zip(*rows)]
            yield tf.nest.pack_sequence_as(self._structure, leaves), len(rows)


def data_fingerprint(dataset: tf.data.Dataset) -> str:
    """Returns a sha256 of the element types, the length and the first batches of a data set.

    If the batches differ each time they are read (by shuffling or random captions), only the types
    and the length are used.

    Example:
        >>> ones = tf.data.Dataset.from_tensor_slices(tf.ones([4, 2])).batch(2)
        >>> zeros = tf.data.Dataset.from_tensor_slices(tf.zeros([4, 2])).batch(2)
        >>> data_fingerprint(ones) == data_fingerprint(zeros)
        False
    """
    digest = hashlib.sha256(_elements(dataset).encode())
    digest.update(str(_length(dataset)).encode())
    if not isinstance(dataset, tf.data.Dataset):
        return digest.hexdigest()
    readings = []
    for _ in range(2):
        reading = hashlib.sha256()
        for batch in dataset.take(SAMPLED).as_numpy_iterator():
            for leaf in tf.nest.flatten(batch):
                reading.update(_bytes(np.asarray(leaf)))
        readings.append(reading.digest())
    if readings[0] == readings[1]:
        digest.update(readings[0])
    return digest.hexdigest()


def _differing_encoders(source: str, meta: Mapping[str, Any]) -> str:
    """Returns which encoders are not those of a cache, for a message."""
    received = str(meta.get("source"))
    differing = []
    if source[:SHA256] != received[:SHA256]:
        differing.append("autoencoder (the weights of its encoder differ)")
    if source[SHA256:] != received[SHA256:]:
        differing.append(
            "conditioner (its weights, vocabulary or settings differ, or whether it is trained)"
        )
    return " and another ".join(differing)


def _differing_data(dataset: tf.data.Dataset, meta: Mapping[str, Any]) -> str:
    """Returns in what a data set is not that of a cache, for a message."""
    if meta.get("elements", elements := _elements(dataset)) != elements:
        return f"element specification ({meta['elements']!s:.300}, not {elements:.300})"
    if meta.get("batches", batches := _length(dataset)) != batches:
        return f"number of batches ({meta['batches']!s:.20}, not {batches})"
    return "content: the first batches differ"


def _elements(dataset: Any) -> str:
    """Returns the names, shapes and types of the entries of a batch, or "None" if not known."""
    return repr(getattr(dataset, "element_spec", None))


def _bytes(value: Any) -> bytes:
    """Returns the bytes of a string or an array, for a hash."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    array = np.asarray(value)
    if array.dtype == object:
        return b"\0".join(map(_bytes, array.ravel()))
    return np.ascontiguousarray(array).tobytes()


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Converts nested dictionaries to one dictionary with dotted names."""
    if not isinstance(values, dict):
        return {prefix: values}
    found = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a dictionary with dotted names to nested dictionaries."""
    found = {}
    for name, value in values.items():
        *parents, last = name.split(".")
        inside = found
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = value
    return found


class _Appender:
    """A writer of a `.npy` file by batches, whose header needs the final length."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.raw = path.with_suffix(".raw")
        self.file = self.raw.open("wb")
        self.count, self.shape, self.dtype = 0, None, None

    def append(self, batch: TensorLike) -> None:
        """Appends rows, float32 as float16."""
        batch = np.asarray(batch)
        batch = batch.astype("float16") if batch.dtype == np.float32 else batch
        self.count += len(batch)
        self.shape, self.dtype = batch.shape[1:], batch.dtype
        self.file.write(np.ascontiguousarray(batch).tobytes())

    def close(self) -> None:
        """Writes the `.npy` file from the raw rows."""
        self.file.close()
        shape = (self.count, *self.shape)
        source = np.memmap(self.raw, self.dtype, "r", shape=shape)
        target = np.lib.format.open_memmap(self.path, "w+", self.dtype, shape)
        for start in range(0, self.count, 1024):
            target[start : start + 1024] = source[start : start + 1024]
        target.flush()
        self.raw.unlink()


def _map(directory: pathlib.Path, name: str) -> np.ndarray:
    """Opens an array of the folder, memory-mapped."""
    path = inside(directory, f"{name}.npy")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError, SyntaxError, OverflowError, TokenError) as error:
        raise ValueError(f"{path} is damaged: {reason(error)}.") from error


def _are_names(value: Any) -> bool:
    """Returns whether a value is a list of dotted names, none of which is a path."""
    return isinstance(value, list) and all(
        isinstance(v, str) and all(part.isidentifier() for part in v.split(".")) for v in value
    )


def _length(dataset: Any) -> int | None:
    """Returns the number of batches, or None if it is not known."""
    count = int(dataset.cardinality())
    return count if count >= 0 else None
