"""A safe reader of PyTorch state dictionaries, without PyTorch.

The format that `torch.save` wrote before version 1.6 is five pickles and then the raw storages:

    magic number | protocol | system information | {name: tensor} | [storage key, ...]
    and for each storage key, in order:  int64 number of elements, elements (little endian)

In the fourth pickle a tensor is a call `_rebuild_tensor_v2(storage, offset, size, stride, ...)` and
a storage a persistent id `("storage", type, key, location, elements, view)`. A pickle can name any
function for its reader to call, so this reader allows these and `OrderedDict` only. The opcodes of
a pickle are checked before it is loaded, since a single one can request memory by a number. No
tensor may be larger than its storage, and no storage larger than the file.

References:
  https://docs.python.org/3/library/pickle.html#restricting-globals
"""

import collections
import dataclasses
import io
import math
import os
import pickle
import pickletools
import struct
from typing import Any, BinaryIO

import numpy as np

from kgen.files.text import check_regular, reason
from kgen.types import Path

MAX_PICKLE_BYTES = 16 * 2**20
_MOST_COPIES = 8  # of the storages, in tensors that share them
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The type and the key of a storage, from its persistent id."""

    dtype: np.dtype
    key: str


class _Tensor:
    """A tensor whose storage is read later; offset and strides are in elements."""

    def __init__(
        self,
        storage: _Storage,
        offset: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        *_: object,
    ) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self, buffers: dict[str, bytes]) -> np.ndarray:
        """Copies the tensor out of its storage; numpy rejects a view beyond its buffer."""
        if not all(type(n) is int and n >= 0 for n in (*self.size, *self.stride, self.offset)):
            raise ValueError("sizes and strides must be integers of at least 0")
        dtype = self.storage.dtype
        strides = tuple(step * dtype.itemsize for step in self.stride)
        offset = self.offset * dtype.itemsize
        buffer = buffers[self.storage.key]
        if math.prod(self.size) * dtype.itemsize > len(buffer):
            raise ValueError("a tensor is larger than its storage")
        return np.ndarray(tuple(self.size), dtype, buffer, offset, strides).copy()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("The file must not set the state of its tensors.")


class _Unpickler(pickle.Unpickler):
    """An unpickler that allows tensors, their storages and `OrderedDict`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(
            f"The file must hold tensors and OrderedDict only. Received: {module}.{name}."
        )

    def persistent_load(self, pid: object) -> _Storage:
        if isinstance(pid, tuple) and len(pid) > 2 and isinstance(pid[1], np.dtype):
            return _Storage(pid[1], pid[2])
        raise pickle.UnpicklingError("The file must refer to tensor storages only.")


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dictionary in PyTorch's legacy format.

    Args:
        path: a `.pth` file written by PyTorch before 1.6.

    Returns:
        A dictionary from names to arrays.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is in another format, or holds anything but tensors and
            `OrderedDict`.
    """
    check_regular(path)
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise ValueError(
                f"`path` must be in the format of PyTorch before 1.6. Received a zip: {path}."
            )
        file.seek(0)
        try:
            return _read(file, path)
        except OSError:
            raise
        except Exception as error:  # a pickle can make its reader raise nearly anything
            raise ValueError(
                f"{path} is damaged or not a weights file: {reason(error)}."
            ) from error


def _read(file: BinaryIO, path: Path) -> dict[str, np.ndarray]:
    if _unpickled(file) != _MAGIC:
        raise ValueError("it must be a PyTorch state dictionary")
    _unpickled(file)
    _unpickled(file)
    tensors, keys = _unpickled(file), _unpickled(file)
    tensors = {name: t for name, t in tensors.items() if isinstance(t, _Tensor)}
    dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
    buffers, size = {}, os.path.getsize(path)
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        length = count * dtypes[key].itemsize
        if not 0 <= length <= size - file.tell():
            raise ValueError("a storage is larger than the file")
        buffers[key] = file.read(length)
    held, arrays = _MOST_COPIES * sum(map(len, buffers.values())), {}
    for name, tensor in tensors.items():
        array = tensor.array(buffers)
        held -= array.nbytes
        if held < 0:
            raise ValueError("too many of its tensors share a storage")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite")
        arrays[name] = array
    return arrays


def _unpickled(file: BinaryIO) -> Any:
    """Reads the next pickle of a file, of limited length and with small memo indices."""
    start = file.tell()
    window = io.BytesIO(file.read(MAX_PICKLE_BYTES))
    count = 0
    for count, (code, argument, _) in enumerate(pickletools.genops(window), 1):
        if "PUT" in code.name and argument > 2 * count:
            raise ValueError("its pickles must have consecutive memo indices")
    end = window.tell()
    window.seek(0)
    value = _Unpickler(window).load()
    if window.tell() != end:
        raise ValueError("one of its pickles has two ends")
    file.seek(start + end)
    return value
