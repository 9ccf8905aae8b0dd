"""Named arrays in `.safetensors` files: one file or several shards.

Files are mapped into memory, so that only the pages of an array are read. The mapping is closed
after every `RELEASE` bytes: otherwise the pages of a whole model would stay in memory beside the
variables to which they are copied.
"""

import abc
import os
import pathlib
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import safetensors

from kgen.files.safetensors import Tensor, read_header

RELEASE = 8 * 2**20  # bytes
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


class Arrays(Mapping):
    """Abstract base of mappings from names to arrays, which are read on access.

    Attributes:
        paths: the files of the arrays.
    """

    paths: list[pathlib.Path]

    @abc.abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array without reading it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the file that is mapped into memory; the next read maps it again."""


class Weights(Arrays):
    """The arrays of one or several files.

    Args:
        paths: the `.safetensors` files, which must not have names in common.
        shards: None, or the file name of each array, from an index of shards.

    Attributes:
        tensors: dtype and shape of each array.
        metadata: the metadata of the files.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a header is damaged, two files have the same name, or an array is in another
            file than `shards` states.

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
    ) -> None:
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
        """Returns an array with the dtype of the file."""
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

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array without reading it."""
        return self.tensors[name].shape

    @property
    def nbytes(self) -> int:
        """Size of all arrays in bytes, with the dtypes of the files."""
        return sum(
            np.dtype(DTYPES[t.dtype]).itemsize * int(np.prod(t.shape, dtype=np.int64))
            for t in self.tensors.values()
        )

    def close(self) -> None:
        """Closes the file that is mapped into memory; the next read maps it again."""
        self._open_path, self._open_file, self._read = None, None, 0
