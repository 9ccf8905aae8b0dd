"""Named arrays in `.safetensors` files: one file or several shards, read slice by slice.

Files are mapped into memory, so that reading an array brings in its own pages only; the mapping is
let go after every `RELEASE` bytes, or the pages of a whole model would be held beside the
variables that they were copied to.
"""

import collections.abc
import os
import pathlib

import ml_dtypes
import numpy as np
import safetensors

from kgen.files.safetensors import Tensor, read_header

RELEASE = 8 * 2**20
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class Weights(collections.abc.Mapping):
    """A mapping from names to arrays in files; an array is read when it is asked for.

    Args:
        paths: the `.safetensors` files, whose names must not meet.
        shards: None, or for each name the name of the file, as an index states it.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a header is damaged, a name is in two files, or not where `shards` says.

    Example:
        >>> import tempfile
        >>> from safetensors.numpy import save_file
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> save_file({"bias": np.ones(3, "float16")}, path)
        >>> weights = Weights([path])
        >>> weights.tensors["bias"], weights["bias"].tolist()
        (Tensor(dtype='F16', shape=(3,)), [1.0, 1.0, 1.0])
    """

    def __init__(
        self,
        paths: list[str | os.PathLike],
        shards: dict[str, str] | None = None,
    ):
        self.paths = [pathlib.Path(path) for path in paths]
        self.tensors: dict[str, Tensor] = {}
        self.metadata: dict[str, str] = {}
        self._places = {}
        for path in self.paths:
            tensors, metadata = read_header(path)
            for name, tensor in tensors.items():
                if tensor.dtype not in DTYPES:
                    raise ValueError(
                        f"{path} must have {name!r} of one of the types {', '.join(DTYPES)}. "
                        f"Received: {tensor.dtype}."
                    )
                if name in self.tensors:
                    raise ValueError(f"{path} and {self._places[name]} both have {name!r}.")
                if shards is not None and shards.get(name) != path.name:
                    raise ValueError(
                        f"{path} has {name!r}, which its index places in {shards.get(name)!r}."
                    )
                self._places[name] = path
            self.tensors |= tensors
            self.metadata |= metadata
        for name, shard in (shards or {}).items():
            if name not in self.tensors:
                path = self.paths[0].parent / shard
                raise ValueError(f"{path} must have {name!r}, as its index states. It is missing.")
        self._open_path, self._open_file, self._read = None, None, 0

    def __getitem__(self, name: str) -> np.ndarray:
        """Returns an array in the type it has in the file."""
        path = self._places[name]
        if path != self._open_path:
            self.close()
            self._open_path = path
            self._open_file = safetensors.safe_open(str(path), framework="numpy")
        array = self._open_file.get_tensor(name)
        self._read += array.nbytes
        if self._read > RELEASE:
            self.close()
        return array

    def __contains__(self, name) -> bool:
        return name in self.tensors

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array, without reading it."""
        return self.tensors[name].shape

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, in the types of the files."""
        return sum(
            np.dtype(DTYPES[t.dtype]).itemsize * int(np.prod(t.shape, dtype=np.int64))
            for t in self.tensors.values()
        )

    def close(self):
        """Lets the mapped file go; the next read maps it again."""
        self._open_path, self._open_file, self._read = None, None, 0
