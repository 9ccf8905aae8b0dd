"""The files of the drawings: shards of TFRecords, and their index `drawings.json`.

    drawings.json                        counts, features, version, sha256 of shards, attribution
    drawings-train-00000-of-00006.tfrecord

A record is a `tf.train.Example` with the features below; its picture is a PNG.
"""

import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kgen.types import Path

INDEX = "drawings.json"
VERSION = "1.0.0"
SPLITS = ("train", "test")
SIZE = 128
# Descriptions of the features; `hue` is a float, all others are strings.
FEATURES = {
    "image": "PNG, 128 x 128, RGB on white",
    "caption": "what the picture shows, in lower-case ASCII",
    "tags": "further words, joined by |",
    "style": "the set and look, as words of a prompt",
    "group": "one of the nine groups of Unicode, such as food-drink",
    "concept": "the key by which the data are split",
    "noun": "the caption if it is a noun that can be counted, else empty",
    "colour": "the name of the colour that most of the picture has, else empty",
    "turns": "the names of colours that its hue may be turned to, joined by |",
    "hue": "the dominant hue in [0, 1)",
}
_FOLDER = "~/.cache/kgen/drawings"
_COMMAND = "python -m tools.drawings --output {folder}"


def default_folder() -> pathlib.Path:
    """Returns the default folder of the data set."""
    return pathlib.Path(_FOLDER).expanduser()


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the name of a shard."""
    return f"drawings-{split}-{number:05d}-of-{count:05d}.tfrecord"


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Encodes a row, a dictionary with the `FEATURES`, as the bytes of a record."""
    features = {}
    for name in FEATURES:
        value = row[name]
        if name == "hue":
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        else:
            value = value if isinstance(value, bytes) else value.encode()
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


def read_index(folder: Path) -> dict[str, Any]:
    """Returns the index of the data set in a folder.

    Raises:
        FileNotFoundError: if there is no index; the message gives the command that builds it.
        ValueError: if the data set has another version.
    """
    path = pathlib.Path(folder) / INDEX
    if not path.is_file():
        command = _COMMAND.format(folder=folder)
        raise FileNotFoundError(
            f"`data_dir` must be a folder with {INDEX}. Received: data_dir={str(folder)!r}. "
            f"The drawings are not part of the package; build them, in a checkout of kgen, with "
            f"`{command}` (see tools/drawings/README.md)."
        )
    index = json.loads(path.read_text(encoding="utf-8"))
    if index.get("version") != VERSION:
        raise ValueError(
            f"`data_dir` must hold version {VERSION} of the drawings. "
            f"Received: version {index.get('version')!r} in {str(folder)!r}. Build it again."
        )
    return index


@functools.lru_cache(maxsize=4)
def read_rows(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Reads one split into memory, without decoding the pictures.

    Args:
        folder: path of the data set.
        split: `"train"` or `"test"`.

    Returns:
        A dictionary of arrays `[N]`: `hue` float32, `image` objects of bytes, and the others
        objects of strings.

    Raises:
        FileNotFoundError: if the data set, or one of its shards, is missing.
        ValueError: if the data set has another version, or a shard is incomplete.
    """
    entry = read_index(folder)["splits"][split]
    paths = [pathlib.Path(folder) / name for name in entry["sha256"]]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Build the data set again.")
    spec = {
        name: tf.io.FixedLenFeature([], tf.float32 if name == "hue" else tf.string)
        for name in FEATURES
    }
    records = tf.data.TFRecordDataset([str(path) for path in paths]).batch(1024)
    try:
        batches = list(records.map(lambda r: tf.io.parse_example(r, spec)).as_numpy_iterator())
    except tf.errors.DataLossError as error:
        raise ValueError(
            f"A shard of {folder} is damaged: build the data set again. {error}"
        ) from error
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in FEATURES}
    if len(rows["image"]) != entry["examples"]:
        raise ValueError(
            f"`data_dir` must hold {entry['examples']} examples of {split!r}. "
            f"Received: {len(rows['image'])} in {str(folder)!r}. Build it again."
        )
    for name in set(FEATURES) - {"image", "hue"}:
        rows[name] = np.array([text.decode() for text in rows[name]], object)
    return rows
