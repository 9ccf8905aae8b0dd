"""Validation of the header of a `.safetensors` file, before memory for its tensors is allocated.

    8 bytes   length of the header, little endian
    header    JSON: {name: {"dtype": "F16", "shape": [...], "data_offsets": [start, end]}, ...}
    values    one after the other, without a gap

A header is valid if every tensor has as many bytes as its type and shape need, and the tensors
cover the rest of the file exactly. So no tensor is larger than the file.

Reference:
  The format: https://huggingface.co/docs/safetensors/index#format.
"""

import dataclasses
import math
import pathlib
import struct
from typing import Any

from kgen.files.text import check_regular, parse_json
from kgen.types import Path

MAX_HEADER = 25_000_000  # bytes; the header of Stable Diffusion XL in one file has 350,000
MAX_RANK = 8
METADATA = "__metadata__"
# Bytes per number. Integers occur in buffers (`position_ids`) and in files of merged models.
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "BOOL": 1}
BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The type and the shape of a tensor in a header.

    Args:
        dtype: type of the numbers, a key of `BYTES`.
        shape: the shape.
    """

    dtype: str
    shape: tuple


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads and checks the header of a `.safetensors` file.

    Args:
        path: the file.

    Returns:
        The tensors by name, and the metadata, a dictionary of strings.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a regular file, or the header is damaged or does not fit the file;
            the message names the entry.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        ...     header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        ...     _ = file.write(struct.pack("<Q", len(header)) + header + bytes(8))
        ...     file.flush()
        ...     read_header(file.name)
        ({'a': Tensor(dtype='F32', shape=(2,))}, {})
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing.")
    check_regular(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise _damaged(path, f"it must have at least 8 bytes. Received: {size} bytes")
        (length,) = struct.unpack("<Q", start)
        if length > min(size - 8, MAX_HEADER):
            raise _damaged(
                path,
                f"its header must fit into the file and have at most {MAX_HEADER:,} bytes. "
                f"Received: a header of {length:,} bytes in a file of {size:,}",
            )
        text = file.read(length)
    header = parse_json(text, f"The header of {path}", MAX_HEADER, unique=True)
    if not isinstance(header, dict):
        raise _damaged(path, f"its header must be a dictionary. Received: {type(header).__name__}")
    metadata = header.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged(path, f"{METADATA!r} must be a dictionary of strings")
    tensors, spans = {}, []
    for name, entry in header.items():
        tensors[name], span = _tensor(path, name, entry)
        spans.append((*span, name))
    _check_cover(path, sorted(spans), size - 8 - length)
    return tensors, metadata


def _tensor(path: Path, name: str, entry: Any) -> tuple[Tensor, list[int]]:
    """Returns the tensor of an entry, and the offsets of its first byte and after its last."""
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(entry, dict) or set(entry) != keys:
        raise _damaged(path, f"the entry {name!r} must have the keys {sorted(keys)}")
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise _damaged(
            path, f"the type of {name!r} must be one of {sorted(BYTES)}. Received: {dtype!r}"
        )
    if not _naturals(shape, MAX_RANK) or not _naturals(span, 2) or len(span) != 2:
        raise _damaged(
            path,
            f"the shape of {name!r} must be a list of at most {MAX_RANK} integers, and its offsets "
            "a list of 2, none of them negative. "
            f"Received: shape={shape!s:.80}, data_offsets={span!s:.80}",
        )
    needed = math.prod(shape) * BYTES[dtype]
    if span[1] - span[0] != needed:
        raise _damaged(
            path,
            f"{name!r} of type {dtype} and shape {shape} must have {needed:,} bytes. "
            f"Received: {span[1] - span[0]:,}",
        )
    return Tensor(dtype, tuple(shape)), span


def _check_cover(path: Path, spans: list[tuple[int, int, str]], size: int) -> None:
    end, before = 0, None
    for start, stop, name in spans:
        if start != end:
            place = "at the start of the values" if before is None else f"where {before!r} ends"
            raise _damaged(
                path, f"{name!r} must begin {place}, at byte {end:,}. Received: {start:,}"
            )
        end, before = stop, name
    if end != size:
        what = "is truncated" if end > size else "has bytes that belong to no tensor"
        raise ValueError(
            f"{path} {what}: its values must have {end:,} bytes"
            + (f", of which the last belong to {before!r}" if before is not None else "")
            + f". Received: {size:,} bytes."
        )


def _naturals(value: Any, most: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(v) is int and 0 <= v < 2**63 for v in value)
    )


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged: {why}.")
