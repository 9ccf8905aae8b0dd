"""Validation of the header of a safetensors file: the names, types and shapes of its arrays.

    uint64 length | JSON of that length | the arrays, contiguous

References:
  https://huggingface.co/docs/safetensors (the format).
"""

import math
import os
from typing import Any

from kgen.files.text import check_regular, parse_json
from kgen.types import Path

MAX_HEADER_BYTES = 100_000_000
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4}
BYTES |= {"F32": 4, "F64": 8, "I64": 8, "U64": 8, "F8_E5M2": 1, "F8_E4M3": 1}


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Reads and checks the header of a safetensors file.

    Args:
        path: the file.

    Returns:
        `{name: (type, shape)}`, where the type is a key of `BYTES`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the header is damaged, or the arrays do not fill the rest of the file.
    """
    check_regular(path)
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path} is damaged: its header is longer than the file.")
        header = parse_json(file.read(length), path, MAX_HEADER_BYTES)
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its header must be a dictionary.")
    header.pop("__metadata__", None)
    end, arrays = 0, {}
    for name, entry in sorted(header.items(), key=lambda item: _start(item, path)):
        dtype, shape, offsets = (entry.get(k) for k in ("dtype", "shape", "data_offsets"))
        sizes = shape if isinstance(shape, list) else [None]
        if dtype not in BYTES or not all(isinstance(n, int) and 0 <= n < 2**48 for n in sizes):
            raise ValueError(f"{path} is damaged: {name!r:.200} must have a type and a shape.")
        bytes_ = math.prod(sizes) * BYTES[dtype]
        if offsets != [end, end + bytes_]:
            raise ValueError(f"{path} is damaged: {name!r:.200} is not where its size puts it.")
        end += bytes_
        arrays[name] = dtype, tuple(sizes)
    if 8 + length + end != size:
        raise ValueError(f"{path} is damaged: it has other bytes than those of its arrays.")
    return arrays


def _start(item: tuple[str, Any], path: Path) -> tuple[int, int]:
    name, entry = item
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (
        isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int for n in offsets)
    ):
        raise ValueError(f"{path} is damaged: {name!r:.200} must have two offsets.")
    return offsets[0], offsets[1]
