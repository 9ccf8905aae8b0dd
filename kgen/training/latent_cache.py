"""Latents and conditions computed once, for training on frozen encoders.

When the autoencoder and the text encoder are frozen, a picture's latent moments and a caption's
embedding never change, so `LatentCache.write` runs both once over a data set and training reads
the results:

    moments.npy                 [N, h, w, 2 c]    mean and log standard deviation of each latent
    rows.npy                    [N]               which condition belongs to which latent
    tokens.npy, mask.npy, ...   [P, ...]          one row per distinct prompt

The files are memory-mapped: written in pieces and read by rows, so they may be larger than memory.
A folder without its last file, `meta.json`, is incomplete and is written anew. That file also says
which encoders the arrays are of.
"""

import json
import pathlib
from tokenize import TokenError

import keras
import numpy as np
import tensorflow as tf

from kgen.files.folders import inside
from kgen.files.text import read_json, reason

META = "meta.json"


class LatentCache:
    """A written cache.

    Args:
        directory: the folder that `write` filled.
        source: what tells the encoders from others, as of `write`; None takes any.

    Raises:
        FileNotFoundError: if the cache is not complete.
        ValueError: if it is of other encoders.
    """

    def __init__(self, directory, source=None):
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
                "`directory` must hold latents of this autoencoder and text encoder. Received: "
                f"{directory}, which holds those of others; remove it to write it anew."
            )
        self.moments, self.rows = (_map(directory, name) for name in ("moments", "rows"))
        self.conditions = {key: _map(directory, key) for key in meta["conditions"]}

    @staticmethod
    def exists(directory):
        """Whether `directory` holds a complete cache."""
        return (pathlib.Path(directory) / META).is_file()

    @classmethod
    def write(cls, directory, dataset, moments, embed, source):
        """Runs the encoders over a data set.

        Args:
            directory: the folder; created if missing.
            dataset: batches `{"images": [B, H, W, C], "prompts": string [B]}`, finite.
            moments: function of the pictures that returns `[B, h, w, 2 c]`.
            embed: function of a list of prompts that returns a dictionary of arrays, one row each;
                None for pictures without prompts.
            source: a string that tells the encoders from others.

        Returns:
            The `LatentCache`.
        """
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / META).unlink(missing_ok=True)
        latents, rows, prompts = None, [], {}
        print("Encoding pictures")
        bar = keras.utils.Progbar(_length(dataset))
        for batch in dataset:
            latents = latents or _Appender(directory / "moments.npy")
            latents.append(moments(batch["images"] if isinstance(batch, dict) else batch))
            for prompt in batch["prompts"].numpy() if embed else ():
                rows.append(prompts.setdefault(prompt.decode(), len(prompts)))
            bar.add(1)
        if latents is None:
            raise ValueError("`dataset` must yield at least one batch. Received an empty one.")
        latents.close()
        np.save(directory / "rows.npy", np.array(rows, "int32"))
        print(f"Encoding {len(prompts)} distinct prompts")
        prompts, tables = list(prompts), {}
        bar = keras.utils.Progbar(len(prompts))
        for start in range(0, len(prompts), 256):
            part = prompts[start : start + 256]
            for key, value in embed(part).items():
                if key not in tables:
                    tables[key] = _Appender(directory / f"{key}.npy")
                tables[key].append(value)
            bar.add(len(part))
        for table in tables.values():
            table.close()
        meta = {"conditions": sorted(tables), "source": source}
        (directory / META).write_text(json.dumps(meta))
        return cls(directory, source)

    def dataset(self, batch_size=64, shuffle=True, seed=0):
        """Batches `{"moments": [B, h, w, 2 c], "condition": {...}}`, shuffled anew every epoch.

        Shuffled batches are whole ones; there is one of all pictures where there are fewer.
        """
        batch_size = min(batch_size, len(self.moments))
        keys = sorted(self.conditions)
        arrays = [self.moments, *(self.conditions[key] for key in keys)]

        def read(indices):
            rows = self.rows[indices] if keys else ()
            values = [self.moments[indices], *(self.conditions[key][rows] for key in keys)]
            return [v.astype("float32") if v.dtype == np.float16 else v for v in values]

        types = [tf.float32 if a.dtype == np.float16 else tf.as_dtype(a.dtype) for a in arrays]

        def batch(indices):
            values = tf.numpy_function(read, [indices], types)
            for value, array in zip(values, arrays):
                value.set_shape([batch_size if shuffle else None, *array.shape[1:]])
            return {"moments": values[0], "condition": dict(zip(keys, values[1:]))}

        indices = tf.data.Dataset.range(len(self.moments))
        if shuffle:
            indices = indices.shuffle(len(self.moments), seed=seed)
        indices = indices.batch(batch_size, drop_remainder=shuffle)
        return indices.map(batch, num_parallel_calls=1).prefetch(4)


class _Appender:
    """A `.npy` file that grows by batches; the header is written when the length is known."""

    def __init__(self, path):
        self.path = path
        self.raw = path.with_suffix(".raw")
        self.file = self.raw.open("wb")
        self.count, self.shape, self.dtype = 0, None, None

    def append(self, batch):
        batch = np.asarray(batch)
        batch = batch.astype("float16") if batch.dtype == np.float32 else batch
        self.count += len(batch)
        self.shape, self.dtype = batch.shape[1:], batch.dtype
        self.file.write(np.ascontiguousarray(batch).tobytes())

    def close(self):
        self.file.close()
        shape = (self.count, *self.shape)
        source = np.memmap(self.raw, self.dtype, "r", shape=shape)
        target = np.lib.format.open_memmap(self.path, "w+", self.dtype, shape)
        for start in range(0, self.count, 1024):
            target[start : start + 1024] = source[start : start + 1024]
        target.flush()
        self.raw.unlink()


def _map(directory, name):
    path = inside(directory, f"{name}.npy")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError, SyntaxError, OverflowError, TokenError) as error:
        raise ValueError(f"{path} is damaged: {reason(error)}.") from error


def _are_names(value):
    return isinstance(value, list) and all(isinstance(v, str) and v.isidentifier() for v in value)


def _length(dataset):
    count = int(dataset.cardinality())
    return count if count >= 0 else None
