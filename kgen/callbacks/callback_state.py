"""Saving the state of callbacks between epochs, such as the patience of `EarlyStopping`.

    ckpt-7.callbacks.json    numbers and strings, by the index of a callback in the list
    ckpt-7.callbacks.npz     arrays, such as the best weights

The state consists of the attributes of a callback that are numbers, strings, arrays or lists of
arrays.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kgen.files.archives import ArrayArchive
from kgen.files.text import read_json

PLAIN = (bool, int, float, str, type(None))
NUMBERS = (bool, int, float, type(None))
# `min_delta` is a setting, of which Keras changes the sign when a callback first compares values.
IGNORED = ("_model", "params", "min_delta")
# The state of these depends on their files, such as whether the header has been written.
WRITERS = keras.callbacks.CSVLogger, keras.callbacks.TensorBoard


def write(
    directory: pathlib.Path, number: int, callbacks: Sequence[keras.callbacks.Callback]
) -> None:
    """Writes the state of callbacks.

    Args:
        directory: the folder of the saves.
        number: number of the save.
        callbacks: the callbacks, in order.
    """
    texts, arrays = [], {}
    for place, callback in enumerate(callbacks):
        plain = {}
        for name, value in vars(callback).items():
            if name in IGNORED:
                continue
            if isinstance(value, np.generic):
                value = value.item()
            if isinstance(value, PLAIN):
                plain[name] = value
            else:
                for i, array in enumerate(_arrays(value)):
                    arrays[f"{place}.{name}.{i:04d}"] = array
        texts.append({"class": type(callback).__name__, "values": plain})
    files = _files(directory, number)
    files["json"].write_text(json.dumps(texts), encoding="utf-8")
    if arrays:
        np.savez(files["npz"], **arrays)


def read(directory: pathlib.Path, number: int) -> tuple[list, dict] | None:
    """Returns the state that was written with a save, or None.

    Raises:
        ValueError: if a file is damaged.
    """
    files = _files(directory, number)
    if not files["json"].is_file():
        return None
    texts = read_json(files["json"])
    if not isinstance(texts, list) or not all(_is_entry(entry) for entry in texts):
        raise ValueError(f"{files['json']} is damaged: it must hold the state of callbacks.")
    arrays = {}
    if files["npz"].is_file():
        with ArrayArchive(files["npz"]) as archive:
            arrays = {name: archive.array(name) for name in archive.headers}
    return texts, arrays


def restore(state: Any, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Restores the state of callbacks whose classes are the same as in the save.

    Args:
        state: the result of `read`.
        callbacks: the callbacks, in order.
    """
    texts, arrays = state
    for place, (entry, callback) in enumerate(zip(texts, callbacks)):
        if entry["class"] != type(callback).__name__ or isinstance(callback, WRITERS):
            continue
        for name, value in entry["values"].items():
            if name in IGNORED:  # in saves of earlier versions
                continue
            now = vars(callback).get(name, ...)
            # Strings are settings, such as the path of a file, and are not restored.
            numbers = isinstance(now, (*NUMBERS, np.generic)) and isinstance(value, NUMBERS)
            if numbers:
                setattr(callback, name, value)
        names = sorted(name for name in arrays if name.startswith(f"{place}."))
        for attribute in {name.split(".")[1] for name in names}:
            if attribute in vars(callback):
                values = [arrays[n] for n in names if n.split(".")[1] == attribute]
                setattr(callback, attribute, values)


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("class"), str)
        and isinstance(entry.get("values"), dict)
    )


def _arrays(value: Any) -> list[np.ndarray]:
    """Returns an array, or the arrays of a list of them, or an empty list for something else.

    A weight without axes is a NumPy number. Weights in bfloat16 are float32 in the file.
    """
    many = value if isinstance(value, list) else [value]
    if not all(isinstance(v, (np.ndarray, np.generic)) for v in many):
        return []
    arrays = [np.asarray(v, "float32" if v.dtype.name == "bfloat16" else None) for v in many]
    return arrays if all(array.dtype.kind in "biuf" for array in arrays) else []


def _files(directory: pathlib.Path, number: int) -> dict[str, pathlib.Path]:
    return {end: directory / f"ckpt-{number}.callbacks.{end}" for end in ("json", "npz")}
