"""Safe reading of untrusted picture files: of seven formats, and of limited size.

Pillow reads sixty formats, some of which start another program, and it recognises them by the first
bytes and not by the name. Here the first bytes must be those of

    AVIF (if Pillow supports it), BMP, GIF, JPEG, PNG, TIFF, WebP

and Pillow may open the file as that format only. A picture takes 4 bytes of memory per pixel. Other
content of a file (profiles, comments, tables of strips) is read too, and limited as well.

References:
  https://www.w3.org/TR/png-3 (chunks), https://www.w3.org/Graphics/JPEG/itu-t81.pdf (markers, B.1),
  https://www.w3.org/Graphics/GIF/spec-gif89a.txt (blocks), https://www.rfc-editor.org/rfc/rfc9649
  (WebP), https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf (directories, section 2).
"""

import contextlib
import io
import mmap
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kgen.files.text import check_regular
from kgen.types import Path

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 64_000_000
MAX_OTHER_BYTES = 4 * 2**20  # largest number of bytes of a file besides its pixels
MAX_SCANS = 100  # largest number of scans of a JPEG file, each of which decodes the whole picture
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WEBP"),
    (b"BM", "BMP"),
    (b"II", "TIFF"),
    (b"MM", "TIFF"),
)
_TIFF_BYTES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)  # size of a value by type


@contextlib.contextmanager
def open_picture(
    path: Path, max_pixels: int = MAX_PIXELS, offset: int = 0, length: int | None = None
) -> Iterator["Image.Image"]:
    """Checks the header of a picture file and opens it with Pillow, as a context manager.

    Args:
        path: the file.
        max_pixels: largest number of pixels.
        offset: offset of the picture in the file, in bytes.
        length: length of the picture in bytes, or None for the whole file.

    Yields:
        A `PIL.Image.Image`, whose pixels are not read yet.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the picture has another format or is too large.
    """
    from PIL import Image

    check_regular(path)
    with open(path, "rb") as file:
        size = file.seek(0, 2) if length is None else length
        if not 16 <= size <= 3 * max_pixels + MAX_OTHER_BYTES:
            raise ValueError(f"its {size} bytes are too few or too many for a picture")
        if length is None:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                kind = _checked_kind(data)
        else:
            file.seek(offset)
            data = file.read(length)
            kind = _checked_kind(data)
            file = io.BytesIO(data)
        file.seek(0)
        with Image.open(file, formats=(kind,)) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, more than "
                    f"`max_pixels`={max_pixels}"
                )
            yield image


class Gate:
    """A semaphore that limits the total number of pixels which threads decode at once.

    Args:
        most: largest total number of pixels; a single picture may have more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def passed(self, pixels: int) -> Iterator[None]:
        """A context that waits for, and then holds, a number of pixels."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside or self._inside + pixels <= self._most)
            self._inside += pixels
        try:
            yield
        finally:
            with self._changed:
                self._inside -= pixels
                self._changed.notify_all()


def _checked_kind(data: bytes) -> str:
    """Returns the format of a picture, and checks the number of bytes besides its pixels."""
    kind = _kind(data)
    others = _OTHERS[kind](data)
    if others > MAX_OTHER_BYTES:
        raise ValueError(f"it has {others} bytes besides its pixels, more than {MAX_OTHER_BYTES}")
    return kind


def _kind(data: bytes) -> str:
    kind = next((kind for start, kind in _SIGNATURES if data[: len(start)] == start), None)
    if kind == "WEBP" and data[8:12] != b"WEBP":
        kind = None
    other = None
    if data[4:8] == b"ftyp":
        brands = [data[8:12], *(data[i : i + 4] for i in range(16, min(data[3], 64), 4))]
        kind = "AVIF" if _has_avif() and {b"avif", b"avis"} & set(brands) else None
        other = "AVIF" if {b"avif", b"avis"} & set(brands) else "HEIC"
    elif data[:2] == b"\xff\x0a" or data[:12] == b"\0\0\0\x0cJXL \r\n\x87\n":
        other = "JPEG XL"
    if kind is None and other is not None:
        raise ValueError(f"it is a picture of the format {other}: convert it to PNG or JPEG first")
    if kind is None:
        raise ValueError("it is not a BMP, GIF, JPEG, PNG, TIFF or WebP picture")
    return kind


def _has_avif() -> bool:
    from PIL import features

    return features.check("avif")


def _avif(data: bytes) -> int:
    """Returns the size of the boxes without pixels; raises an error if one is incomplete."""
    others, place = 0, 0
    while place + 8 <= len(data):
        length, name = struct.unpack(">L4s", data[place : place + 8])
        if length == 1:
            length = struct.unpack(">Q", data[place + 8 : place + 16].ljust(8, b"\0"))[0]
        elif length == 0:
            length = len(data) - place
        if length < 8 or place + length > len(data):
            raise ValueError("its boxes are incomplete")
        others += 8 if name == b"mdat" else length
        place += length
    return others


def _png(data: bytes) -> int:
    """Returns the size of the chunks without pixels; raises an error if there are too many."""
    others, place, left = 0, 8, 4096 + len(data) // 256
    while place + 8 <= len(data) and others <= MAX_OTHER_BYTES:
        length, name = struct.unpack(">L4s", data[place : place + 8])
        place, left = place + 12 + length, left - 1
        others += 0 if name == b"IDAT" else length
        if not left:
            raise ValueError("it has too many chunks")
        if name == b"IEND":
            break
    return others


def _jpeg(data: bytes) -> int:
    """Returns the size before the first scan; raises an error if there are too many scans."""
    place, scans = 0, 0
    while (place := data.find(b"\xff\xda", place)) >= 0 and scans <= MAX_SCANS:
        place, scans = place + 2, scans + 1
    if scans > MAX_SCANS:
        raise ValueError(f"it has more than {MAX_SCANS} scans")
    place = 2
    while 0 <= place <= len(data) - 4 and place <= MAX_OTHER_BYTES:
        if data[place] != 0xFF:  # Pillow skips bytes between segments one by one
            place = data.find(b"\xff", place)
            if place < 0:
                break
        if data[place + 1] == 0xFF:  # padding
            place += 1
            continue
        if data[place + 1] == 0xDA:
            break
        alone = data[place + 1] in (0x00, 0x01, *range(0xD0, 0xD9))
        place += 2 if alone else 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    if not scans:
        raise ValueError("it has no scan")
    return place if place >= 0 else len(data)


def _gif(data: bytes) -> int:
    """Returns the size of the data before the first frame."""
    place = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while place + 2 <= len(data) and data[place] == 0x21 and place <= MAX_OTHER_BYTES:
        place += 2
        while place < len(data) and data[place] and place <= MAX_OTHER_BYTES:
            place += 1 + data[place]
        place += 1
    return place


def _webp(data: bytes) -> int:
    """Returns the size of the chunks of profiles and metadata."""
    others, place = 0, 12
    while place + 8 <= len(data) and others <= MAX_OTHER_BYTES:
        name, length = struct.unpack("<4sL", data[place : place + 8])
        place += 8 + length + length % 2
        pixels = name in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANMF", b"ANIM")
        others += 8 if pixels else 8 + length
    return others


def _tiff(data: bytes) -> int:
    """Returns the size of the values that the first directory refers to."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack(order + "H", data[2:4])[0] == 43
    place = struct.unpack(order + ("Q" if big else "L"), data[8:16] if big else data[4:8])[0]
    start, entry, width = ("Q", "HHQ", 20) if big else ("H", "HHL", 12)
    head = data[place : place + struct.calcsize(order + start)]
    if len(head) < struct.calcsize(order + start):
        raise ValueError("it has no directory")
    count = struct.unpack(order + start, head)[0]
    place, others = place + len(head), width * count
    for i in range(min(count, MAX_OTHER_BYTES // width)):
        part = data[place + i * width : place + i * width + struct.calcsize(order + entry)]
        if len(part) < struct.calcsize(order + entry):
            raise ValueError("its directory is incomplete")
        _, kind, values = struct.unpack(order + entry, part)
        others += values * (_TIFF_BYTES[kind] if kind < len(_TIFF_BYTES) else 1)
    return others


_OTHERS = {
    "AVIF": _avif,
    "BMP": lambda data: 0,
    "GIF": _gif,
    "JPEG": _jpeg,
    "PNG": _png,
    "TIFF": _tiff,
    "WEBP": _webp,
}
