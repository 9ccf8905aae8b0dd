"""Validation of data sets of TensorFlow Datasets: TFRecord files and their description.

A TFRecord file is a sequence of records, and a reader allocates the length that a record declares:

    uint64 length | uint32 checksum | length bytes | uint32 checksum

The description, `features.json`, names the Python classes that read the records.

References:
  https://www.tensorflow.org/tutorials/load_data/tfrecord (the format).
"""

import os
import pathlib
import struct
from typing import Any

from kgen.files.text import check_regular, read_json
from kgen.types import Path

MAX_RECORD_BYTES = 64 * 2**20
_FEATURES = "tensorflow_datasets.core.features."


def check_data_set(folder: Path) -> None:
    """Checks a folder that TensorFlow Datasets has prepared.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is damaged, or names classes outside of TensorFlow Datasets.
    """
    folder = pathlib.Path(folder)
    for path in sorted(folder.glob("*.json")):
        _check_classes(read_json(path), path)
    for path in sorted(folder.glob("*.tfrecord*")):
        check_records(path)


def _check_classes(content: Any, path: Path) -> None:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            # Two versions of the format; a `type` without a point does not name a class.
            names = [value.get("pythonClassName"), value.get("type")]
            for name in [name for name in names if isinstance(name, str) and "." in name]:
                if not name.startswith(_FEATURES):
                    raise ValueError(
                        f"{path} is unsafe to load: it must name classes of {_FEATURES}*. "
                        f"Received: {name!r:.200}."
                    )
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value


def check_records(path: Path) -> None:
    """Checks that the records of a TFRecord file are complete and of at most 64 MB.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is damaged, or a record is larger.
    """
    check_regular(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        end = 0
        while end < size:
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] if len(header) == 8 else size
            end += 16 + length
            if length > MAX_RECORD_BYTES or end > size:
                raise ValueError(
                    f"{path} is damaged: its record at byte {file.tell() - len(header)} must be "
                    f"whole, and have at most {MAX_RECORD_BYTES} bytes."
                )
            file.seek(end)
