"""Validation of HDF5 files of plain arrays, as Keras writes weights: groups and contiguous arrays.

A weights file needs none of the other features of HDF5, each of which can be abused:

    links into other files, external and virtual arrays     read files outside of the folder
    filters                                                  load libraries, decompression bombs
    chunks, and arrays that were never written               declare gigabytes without data
    strings and objects of variable length                   hold pointers

So they are rejected, by headers alone, before an array is read.

References:
  https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (the file format).
"""

import os
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from kgen.types import Path

if TYPE_CHECKING:
    import h5py

MAX_OBJECTS = 50_000
_MAX_DEPTH = 64
_MAX_ATTRIBUTES = 16
_MAX_ATTRIBUTE_BYTES = 2**16
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PIECE = 2**22  # number of elements that are checked at once


def check_hdf5(file: Path | BinaryIO, source: object) -> dict[str, tuple[tuple[int, ...], str]]:
    """Checks an HDF5 file of arrays, and returns their shapes and kinds.

    Args:
        file: a path, or an open binary file.
        source: name of the file, for messages.

    Returns:
        `{name: (shape, kind)}`, where the kind is `"float"` or the name of another numpy dtype.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not an HDF5 file, holds anything but plain arrays, or holds a number
            that is not finite in float32.
    """
    import h5py

    path = None if hasattr(file, "read") else os.fspath(file)
    if _first(file, len(_SIGNATURE)) != _SIGNATURE:
        raise ValueError(f"{source} is damaged or not an HDF5 file.")
    if path is not None and zipfile.is_zipfile(path):
        raise ValueError(f"{source} is refused: it is an HDF5 file and a zip file at once.")
    size = os.path.getsize(path) if path else _size(file)
    try:
        with h5py.File(file, "r") as root:
            return dict(_arrays(root, source, size))
    except ValueError:
        raise
    except (KeyError, OSError, RuntimeError, TypeError, UnicodeError, RecursionError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{source} is damaged: {line}.") from error


def _first(file: Any, count: int) -> bytes:
    if hasattr(file, "read"):
        file.seek(0)
        data = file.read(count)
        file.seek(0)
        return data
    with open(file, "rb") as stream:
        return stream.read(count)


def _size(file: Any) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _arrays(
    root: "h5py.File", source: object, size: int
) -> Iterator[tuple[str, tuple[tuple[int, ...], str]]]:
    """Traverses the groups without following links; yields the name, shape and kind of arrays."""
    import h5py

    seen, waiting, objects, held = set(), [("", root, 0)], 0, 0
    while waiting:
        prefix, group, depth = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > _MAX_DEPTH:
            raise ValueError(f"{source} is refused: the group {prefix or '/'} is inside itself.")
        seen.add(address)
        _check_attributes(group, prefix or "/", source)
        for name in group:
            objects += 1
            if objects > MAX_OBJECTS:
                raise ValueError(f"{source} is refused: it holds more than {MAX_OBJECTS} objects.")
            path = f"{prefix}/{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(
                    f"{source} is refused: {path} is a {type(link).__name__}, not an array."
                )
            kind = group.get(name, getclass=True)
            if kind is h5py.Group:
                waiting.append((path, group[name], depth + 1))
            elif kind is h5py.Dataset:
                dataset = group[name]
                address = h5py.h5o.get_info(dataset.id).addr
                if address in seen:
                    raise ValueError(f"{source} is refused: {path} has two names.")
                seen.add(address)
                held += _check_layout(dataset, path, source)
                if held > size:  # arrays share their bytes
                    raise ValueError(
                        f"{source} is refused: {path} declares more bytes than the file holds."
                    )
                _check_attributes(dataset, path, source)
                yield path[1:], (dataset.shape, _check_values(dataset, path, source))
            else:
                raise ValueError(f"{source} is refused: {path} is not an array.")


def _check_attributes(thing: "h5py.Group | h5py.Dataset", path: str, source: object) -> None:
    import h5py

    if len(thing.attrs) > _MAX_ATTRIBUTES:
        raise ValueError(f"{source} is refused: {path} has too many attributes.")
    for name in thing.attrs:
        attribute = thing.attrs.get_id(name)
        numbers = attribute.get_type()
        text = isinstance(numbers, h5py.h5t.TypeStringID)
        if attribute.get_storage_size() > _MAX_ATTRIBUTE_BYTES or not (
            text or isinstance(numbers, (h5py.h5t.TypeFloatID, h5py.h5t.TypeIntegerID))
        ):
            raise ValueError(f"{source} is refused: the attribute {name} of {path} is not a text.")


def _check_layout(dataset: "h5py.Dataset", path: str, source: object) -> int:
    """Checks that an array is one contiguous block in this file; returns its size in bytes."""
    import h5py

    if dataset.shape is None or dataset.dtype.kind not in "biufV" or dataset.dtype.hasobject:
        raise ValueError(f"{source} is refused: {path} must be an array of numbers.")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{source} is refused: {path} stores its numbers in another file.")
    layout = dataset.id.get_create_plist()
    if layout.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or layout.get_nfilters():
        raise ValueError(f"{source} is refused: {path} must be contiguous and not compressed.")
    if dataset.id.get_storage_size() != dataset.nbytes:
        raise ValueError(
            f"{source} is damaged: {path} declares {dataset.nbytes} bytes, but holds "
            f"{dataset.id.get_storage_size()}."
        )
    return dataset.nbytes


def _check_values(dataset: "h5py.Dataset", path: str, source: object) -> str:
    """Checks that the numbers are finite in float32; returns their kind."""
    half = dataset.dtype.kind == "V"  # bfloat16, which HDF5 does not have
    if half and (dataset.dtype.itemsize != 2 or dataset.attrs.get("dtype") != "bfloat16"):
        raise ValueError(f"{source} is refused: {path} must be an array of numbers.")
    if not half and dataset.dtype.kind != "f":
        return dataset.dtype.name
    rows = max(1, _PIECE // max(1, int(np.prod(dataset.shape[1:]))))
    for start in range(0, dataset.shape[0] if dataset.shape else 1, rows):
        part = dataset[start : start + rows] if dataset.shape else dataset[()]
        if half:
            finite = np.frombuffer(part.tobytes(), "<u2") & 0x7F80 != 0x7F80
        else:
            with np.errstate(over="ignore"):
                finite = np.isfinite(part.astype("float32"))
        if not np.all(finite):
            raise ValueError(f"{source} is damaged: {path} must be finite in float32.")
    return "float"
