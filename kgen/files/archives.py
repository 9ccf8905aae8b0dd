"""Strict reading of zip archives, and of the arrays in them.

A zip file is read from its end, so a file can be a zip archive and something else at once, and two
entries can share the same bytes. Here a file is accepted as an archive only if it consists of

    entry | entry | ... | directory of the entries | end

in that order, without other bytes before, between or after. Only entries of the directory are
decompressed, and only up to their declared size.

References:
  https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.6 to 4.3.16.
  https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html (the header of an array).
"""

import math
import os
import re
import struct
import zipfile
import zlib
from typing import Self

import numpy as np

from kgen.files.text import check_regular
from kgen.types import Path

MAX_ENTRIES = 20_000
MAX_EXPANSION = 100  # largest ratio of decompressed size, if above _FREE_BYTES, to file size
_FREE_BYTES = 64 * 2**20
_DAMAGE = (EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>[<|][biuf][1248])', 'fortran_order': (?P<order>True|False), "
    rb"'shape': \((?P<shape>[0-9, ]{0,400})\), \} *\n"
)


class Archive:
    """A zip file that is validated and opened for reading; a context manager.

    Args:
        path: the file.

    Attributes:
        entries: the entries of the archive, `{name: zipfile.ZipInfo}`.
        size: size of the file in bytes.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file is not a zip archive, or holds other bytes too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_regular(path)
        self.size = os.path.getsize(path)
        self._file = open(path, "rb")  # noqa: SIM115
        try:
            start = self._check_frame()
            self._zip = zipfile.ZipFile(self._file)
            self.entries = {info.filename: info for info in self._zip.infolist()}
            self._check_entries(start)
        except _DAMAGE as error:
            self._file.close()
            raise ValueError(f"{path} is damaged or not an archive: {error}.") from error
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def read(self, name: str, limit: int) -> bytes:
        """Returns the bytes of an entry.

        Raises:
            ValueError: if the entry has more than `limit` bytes, is missing or is damaged.
        """
        info = self._info(name)
        if info.file_size > limit:
            raise ValueError(f"{self.path} is refused: {name} must have at most {limit} bytes.")
        return self._read(name, info.file_size)

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self.entries:
            raise ValueError(f"{self.path} is damaged: it must hold {name}.")
        return self.entries[name]

    def _read(self, name: str, size: int, offset: int = 0) -> bytes:
        """Returns the bytes of an entry from `offset`, of which there must be exactly `size`."""
        try:
            with self._zip.open(name) as stream:
                if offset:
                    stream.read(offset)
                data = stream.read(size)
                if len(data) != size or stream.read(1):
                    raise ValueError(f"{self.path} is damaged, in the part {name}.")
                return data
        except _DAMAGE as error:
            raise ValueError(f"{self.path} is damaged, in the part {name}: {error}.") from error

    def _check_frame(self) -> int:
        """Checks the first and the last record; returns the offset of the directory."""
        tail = self._at(max(self.size - 22, 0), 22)
        if self._at(0, 4) != b"PK\3\4" or len(tail) < 22 or tail[:4] != b"PK\5\6":
            raise ValueError(
                f"{self.path} is damaged or not an archive: it must be a zip file, without other "
                "bytes before or after it."
            )
        count, size, start, comment = struct.unpack("<2xHLLH", tail[8:])
        end = self.size - 22
        locator = self._at(max(end - 20, 0), 20)
        if locator[:4] == b"PK\6\7":  # sizes of more than 32 bits
            end = struct.unpack("<8xQ4x", locator)[0]
            record = self._at(min(end, self.size), 56)
            if len(record) < 56 or record[:4] != b"PK\6\6":
                raise ValueError(
                    f"{self.path} is damaged: its directory is not at the declared offset."
                )
            count, size, start = struct.unpack("<32xQQQ", record)
        if start + size != end or comment or 46 * count > size:
            raise ValueError(
                f"{self.path} is damaged or not an archive: some bytes belong to no entry."
            )
        if count > MAX_ENTRIES or size > 1024 * count:
            raise ValueError(
                f"{self.path} is refused: it must have at most {MAX_ENTRIES} entries with short "
                "names."
            )
        return start

    def _check_entries(self, start: int) -> None:
        if len(self.entries) != len(self._zip.infolist()):
            raise ValueError(f"{self.path} is damaged: two of its entries have the same name.")
        end, inflated, descriptor = 0, 0, 0
        for info in sorted(self.entries.values(), key=lambda info: info.header_offset):
            if info.flag_bits & ~0x080E or info.compress_type not in (0, 8):
                raise ValueError(
                    f"{self.path} is refused: {info.filename} must be stored or deflated, and not "
                    "encrypted."
                )
            if info.compress_type == 0 and info.file_size != info.compress_size:
                raise ValueError(f"{self.path} is damaged: {info.filename} has two sizes.")
            header = self._at(info.header_offset, 30)
            if info.header_offset < end or len(header) < 30 or header[:4] != b"PK\3\4":
                raise ValueError(f"{self.path} is damaged: {info.filename} overlaps another entry.")
            if info.header_offset > end + descriptor:
                raise ValueError(
                    f"{self.path} is damaged: bytes before {info.filename} belong to no entry."
                )
            end = (
                info.header_offset
                + 30
                + sum(struct.unpack("<HH", header[26:]))
                + (info.compress_size)
            )
            inflated += info.file_size
            descriptor = 24 if info.flag_bits & 8 else 0  # the sizes may follow the entry
        if not end <= start <= end + descriptor:
            raise ValueError(f"{self.path} is damaged: the directory does not follow the entries.")
        if inflated > max(_FREE_BYTES, MAX_EXPANSION * self.size):
            raise ValueError(
                f"{self.path} is refused: its {self.size} bytes would inflate to {inflated}."
            )

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)


class ArrayArchive(Archive):
    """An `.npz` file whose headers are read at once, and whose arrays are read one by one.

    Args:
        path: the file.

    Attributes:
        headers: `{name: (shape, dtype, whether in Fortran order, size of the header in bytes)}`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if an entry is not an array of plain numbers of the size that it declares.
    """

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path)
        except ValueError as error:
            raise ValueError(
                f"{path} is damaged or not a weights file: it must be an archive of arrays, "
                f"without pickled objects ({error})."
            ) from error
        try:
            self.headers = {name.removesuffix(".npy"): self._header(name) for name in self.entries}
        except BaseException:
            self.__exit__()
            raise

    def array(self, name: str) -> np.ndarray:
        """Reads the array `name`."""
        shape, dtype, columns_first, skipped = self.headers[name]
        size = math.prod(shape) * dtype.itemsize
        data = self._read(f"{name}.npy", size, offset=skipped)
        return np.frombuffer(data, dtype).reshape(shape, order="F" if columns_first else "C")

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype, bool, int]:
        bad = ValueError(
            f"{self.path} is damaged or not a weights file: it must be an archive of arrays, "
            f"without pickled objects. Received: the entry {name}."
        )
        if not name.endswith(".npy"):
            raise bad
        try:
            with self._zip.open(name) as stream:
                start = stream.read(12)
                if start[:6] != b"\x93NUMPY" or start[6:8] not in (b"\1\0", b"\2\0", b"\3\0"):
                    raise bad
                wide = start[6] > 1
                length = struct.unpack("<L" if wide else "<H", start[8 : 12 if wide else 10])[0]
                if not 16 <= length <= 4096:
                    raise bad
                text = (start[12:] if wide else start[10:]) + stream.read(length - 2 * (not wide))
        except (*_DAMAGE, struct.error) as error:
            raise ValueError(f"{self.path} is damaged, in the part {name}: {error}.") from error
        found = _HEADER.fullmatch(text)
        if found is None:
            raise bad
        dtype = np.dtype(found["dtype"].decode().replace("|b1", "?"))
        sizes = [size.strip() for size in found["shape"].decode().split(",") if size.strip()]
        if len(sizes) > 32 or not all(size.isdigit() and len(size) < 16 for size in sizes):
            raise bad
        shape = tuple(int(size) for size in sizes)
        skipped = (12 if wide else 10) + length
        declared, held = math.prod(shape) * dtype.itemsize + skipped, self.entries[name].file_size
        if declared != held:
            raise ValueError(
                f"{self.path} is damaged: {name} declares {declared} bytes, but holds {held}."
            )
        return shape, dtype, found["order"] == b"True", skipped
