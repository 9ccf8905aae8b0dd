"""Reads a PyTorch state dictionary without PyTorch, and without trusting the file.

The format that `torch.save` wrote before version 1.6 is five pickles and then the raw storages:

    magic number | protocol | system information | {name: tensor} | [storage key, ...]
    and for each storage key, in order:  int64 number of elements, elements (little endian)

In the fourth pickle a tensor is a call `_rebuild_tensor_v2(storage, offset, size, stride, ...)` and
a storage a persistent id `("storage", type, key, location, elements, view)`. A pickle can name any
function for its reader to call, so here it may name these and `OrderedDict`, and nothing else.

References:
  https://docs.python.org/3/library/pickle.html#restricting-globals
"""

import collections
import dataclasses
import pickle
import struct

import numpy as np

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
    """The persistent id of a storage."""

    dtype: np.dtype
    key: str


class _Tensor:
    """A tensor whose storage is still to be read; offset and strides count elements."""

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self, buffers):
        """A copy out of the storages; numpy refuses a view that leaves its buffer."""
        dtype = self.storage.dtype
        strides = tuple(step * dtype.itemsize for step in self.stride)
        offset = self.offset * dtype.itemsize
        buffer = buffers[self.storage.key]
        return np.ndarray(tuple(self.size), dtype, buffer, offset, strides).copy()


class _Unpickler(pickle.Unpickler):
    """Knows tensors, their storages and `OrderedDict`."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if module == "torch" and name in _STORAGES:
            return np.dtype(_STORAGES[name])
        raise pickle.UnpicklingError(
            f"The file must hold tensors and OrderedDict only. Received: {module}.{name}."
        )

    def persistent_load(self, pid):
        if isinstance(pid, tuple) and len(pid) > 2 and isinstance(pid[1], np.dtype):
            return _Storage(pid[1], pid[2])
        raise pickle.UnpicklingError("The file must refer to tensor storages only.")


def read_state_dict(path):
    """Reads a state dictionary in PyTorch's legacy format.

    Args:
        path: a `.pth` file written by PyTorch before 1.6.

    Returns:
        A dictionary from names to arrays.

    Raises:
        ValueError: if the file is in another format.
        pickle.UnpicklingError: if it holds anything but tensors and `OrderedDict`.
    """
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            raise ValueError(
                f"`path` must be in the format of PyTorch before 1.6. Received a zip: {path}."
            )
        file.seek(0)
        if _Unpickler(file).load() != _MAGIC:
            raise ValueError(f"`path` must be a PyTorch state dictionary. Received: {path}.")
        _Unpickler(file).load()
        _Unpickler(file).load()
        tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
        tensors = {name: t for name, t in tensors.items() if isinstance(t, _Tensor)}
        dtypes = {tensor.storage.key: tensor.storage.dtype for tensor in tensors.values()}
        buffers = {}
        for key in keys:
            (count,) = struct.unpack("<q", file.read(8))
            buffers[key] = file.read(count * dtypes[key].itemsize)
    return {name: tensor.array(buffers) for name, tensor in tensors.items()}
