"""HDF5 files of plain arrays, as Keras writes weights: groups, and arrays in one piece each.

HDF5 can do much more, and each of it is a way to something that a file of weights has no use for:

    links into other files, external and virtual arrays     files outside of the folder
    filters                                                  libraries loaded by number, bombs
    chunks, and arrays that were never written               gigabytes of nothing
    strings and objects of variable length                   pointers

So all of it is refused, from headers alone, before an array is read.

References:
  https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html (the file format).
"""

import os
import zipfile

import numpy as np

MAX_OBJECTS = 200_000
_MAX_DEPTH = 64
_MAX_ATTRIBUTES = 16
_MAX_ATTRIBUTE_BYTES = 2**16
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PIECE = 2**22  # elements checked at once


def check_hdf5(file, source):
    """Checks an HDF5 file of arrays, and lists them.

    Args:
        file: a path, or an open file.
        source: what to call it in messages.

    Returns:
        `{name: (shape, kind)}` of the arrays; a kind is `"float"`, or another type of numpy's.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no HDF5 file, holds anything but plain arrays, or a number that is not
            finite in float32.
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


def _first(file, count):
    if hasattr(file, "read"):
        file.seek(0)
        data = file.read(count)
        file.seek(0)
        return data
    with open(file, "rb") as stream:
        return stream.read(count)


def _size(file):
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _arrays(root, source, size):
    """Walks the groups, following no link, and yields the arrays."""
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
                held += _check_layout(dataset, path, source)
                if held > size:  # the same bytes under many names
                    raise ValueError(
                        f"{source} is refused: {path} declares more than the file holds."
                    )
                _check_attributes(dataset, path, source)
                yield path[1:], (dataset.shape, _check_values(dataset, path, source))
            else:
                raise ValueError(f"{source} is refused: {path} is no array.")


def _check_attributes(thing, path, source):
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
            raise ValueError(f"{source} is refused: the attribute {name} of {path} is no text.")


def _check_layout(dataset, path, source):
    """Refuses all but one piece of numbers in this file; returns its bytes."""
    import h5py

    if dataset.shape is None or dataset.dtype.kind not in "biufV" or dataset.dtype.hasobject:
        raise ValueError(f"{source} is refused: {path} must be an array of numbers.")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{source} is refused: {path} has its numbers in another file.")
    layout = dataset.id.get_create_plist()
    if layout.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or layout.get_nfilters():
        raise ValueError(f"{source} is refused: {path} must be in one piece, not compressed.")
    if dataset.id.get_storage_size() != dataset.nbytes:
        raise ValueError(
            f"{source} is damaged: {path} declares {dataset.nbytes} bytes and holds "
            f"{dataset.id.get_storage_size()}."
        )
    return dataset.nbytes


def _check_values(dataset, path, source):
    """Returns the kind of the numbers, which must be finite in float32."""
    half = dataset.dtype.kind == "V"  # bfloat16, which HDF5 does not know
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
