"""Output files of a command: their names, enlarged pictures, and writing."""

from __future__ import annotations

import pathlib
import re
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kgen.cli.arguments import PICTURE_SUFFIXES
from kgen.cli.errors import CommandError, UsageError, one_line

if TYPE_CHECKING:
    import numpy as np


def random_seed() -> int:
    """Returns a random seed in [0, 2^31)."""
    return secrets.randbelow(2**31)


def slug(text: str | None, fallback: str = "picture") -> str:
    """Converts text to a part of a file name: lower-case letters, digits and hyphens.

    Args:
        text: any text, or None.
        fallback: the result if nothing of the text is left.

    Example:
        >>> slug("A red heart, noto!")
        'a-red-heart-noto'
    """
    return re.sub(r"[^a-z0-9]+", "-", (text or "").lower()).strip("-")[:48].strip("-") or fallback


def output_paths(
    output: pathlib.Path | None,
    names: Sequence[str],
    suffixes: Sequence[str] = PICTURE_SUFFIXES,
) -> list[pathlib.Path]:
    """Returns one path for each name.

    Args:
        output: a folder, None for the current folder, or a file. If there are several names, the
            file `heart.png` becomes `heart_1.png`, `heart_2.png`, ...
        names: names without a suffix, for files in a folder. Repeated names are numbered.
        suffixes: allowed suffixes of a file; the first is that of files in a folder.

    Raises:
        UsageError: if `output` has another suffix.
    """
    output = pathlib.Path("." if output is None else output)
    suffix = output.suffix.lower()
    if output.is_dir() or not suffix:
        counts: dict[str, int] = {}
        paths = []
        for name in names:
            counts[name] = counts.get(name, 0) + 1
            number = "" if counts[name] == 1 else f"-{counts[name]}"
            paths.append(output / f"{name}{number}{suffixes[0]}")
        return paths
    if suffix not in suffixes:
        raise UsageError(
            f"--output must be a folder or end in {', '.join(suffixes)}. Received: {output}"
        )
    if len(names) == 1:
        return [output]
    return [output.with_stem(f"{output.stem}_{i + 1}") for i in range(len(names))]


def upscaled(images: np.ndarray, factor: int | None) -> np.ndarray:
    """Enlarges pictures with a Lanczos filter.

    Args:
        images: uint8 `[N, H, W, C]`.
        factor: a positive integer; None for 1.

    Returns:
        uint8 `[N, factor * H, factor * W, C]`.
    """
    import numpy as np
    from PIL import Image

    if factor in (None, 1):
        return images
    height, width, channels = images.shape[1:]
    larger = []
    for image in images:
        # Each channel separately, so that a transparent alpha channel does not darken edges.
        planes = [
            Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
                (width * factor, height * factor), Image.Resampling.LANCZOS
            )
            for c in range(channels)
        ]
        larger.append(np.stack([np.asarray(plane) for plane in planes], axis=-1))
    return np.stack(larger)


def write(path: pathlib.Path, save: Callable[..., None], *args: Any, **options: Any) -> str:
    """Calls `save(path, *args, **options)`; returns the path as a string.

    Raises:
        CommandError: if `save` raises an `OSError`.
    """
    try:
        save(path, *args, **options)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {one_line(error)}") from error
    return str(path)
