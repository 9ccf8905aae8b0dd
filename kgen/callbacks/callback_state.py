"""What callbacks remember between epochs, such as the patience of `EarlyStopping`.

    ckpt-7.callbacks.json    numbers and texts, by the place of a callback in the list
    ckpt-7.callbacks.npz     arrays, such as the best weights

Kept is what is a plain attribute of a callback: numbers, texts, and arrays or lists of arrays.
"""

import json

import numpy as np

from kgen.files.archives import ArrayArchive
from kgen.files.text import read_json

PLAIN = (bool, int, float, str, type(None))
IGNORED = ("_model", "params")


def write(directory, number, callbacks):
    """Writes what callbacks remember.

    Args:
        directory: the folder of the saves, a path.
        number: of the save.
        callbacks: in their order.
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
            elif _arrays(value):
                many = value if isinstance(value, list) else [value]
                for i, array in enumerate(many):
                    arrays[f"{place}.{name}.{i:04d}"] = np.asarray(array)
        texts.append({"class": type(callback).__name__, "values": plain})
    files = _files(directory, number)
    files["json"].write_text(json.dumps(texts), encoding="utf-8")
    if arrays:
        np.savez(files["npz"], **arrays)


def read(directory, number):
    """Returns what was written for a save, or None.

    Raises:
        ValueError: if a file is damaged.
    """
    files = _files(directory, number)
    if not files["json"].is_file():
        return None
    texts = read_json(files["json"])
    arrays = {}
    if files["npz"].is_file():
        with ArrayArchive(files["npz"]) as archive:
            arrays = {name: archive.array(name) for name in archive.headers}
    return texts, arrays


def restore(state, callbacks):
    """Gives callbacks back what they remembered, as far as they are of the same classes.

    Args:
        state: what `read` returned.
        callbacks: in their order.
    """
    texts, arrays = state
    for place, (entry, callback) in enumerate(zip(texts, callbacks)):
        if entry["class"] != type(callback).__name__:
            continue
        for name, value in entry["values"].items():
            now = vars(callback).get(name, ...)
            if now is not ... and isinstance(now, (*PLAIN, np.generic)):
                setattr(callback, name, value)
        names = sorted(name for name in arrays if name.startswith(f"{place}."))
        for attribute in {name.split(".")[1] for name in names}:
            if attribute in vars(callback):
                values = [arrays[n] for n in names if n.split(".")[1] == attribute]
                setattr(callback, attribute, values)


def _arrays(value):
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    many = isinstance(value, list) and bool(value)
    return many and all(isinstance(v, np.ndarray) and v.dtype.kind in "biuf" for v in value)


def _files(directory, number):
    return {end: directory / f"ckpt-{number}.callbacks.{end}" for end in ("json", "npz")}
