"""Where pictures of a command go, under which names, and how they get there."""

import pathlib
import re
import secrets

from kgen.cli.arguments import PICTURES
from kgen.cli.errors import CommandError, UsageError, one_line


def new_seed():
    """A seed for those who give none."""
    return secrets.randbelow(2**31)


def slug(text, fallback="picture"):
    """A text as a part of a file's name.

    Example:
        >>> slug("A red heart, noto!")
        'a-red-heart-noto'
    """
    return re.sub(r"[^a-z0-9]+", "-", (text or "").lower()).strip("-")[:48].strip("-") or fallback


def paths(output, names, endings=PICTURES):
    """Returns one path for each name.

    Args:
        output: None for the present folder, a folder, or a file; of several pictures the files
            then are `heart_1.png`, `heart_2.png`, ...
        names: names without an ending, for files in a folder; of equal ones all but the first
            get a number.
        endings: what a file may end in; the first is that of files in a folder.

    Raises:
        UsageError: if `output` ends in something else.
    """
    output = pathlib.Path("." if output is None else output)
    ending = output.suffix.lower()
    if output.is_dir() or not ending:
        taken, made = {}, []
        for name in names:
            taken[name] = taken.get(name, 0) + 1
            number = "" if taken[name] == 1 else f"-{taken[name]}"
            made.append(output / f"{name}{number}{endings[0]}")
        return made
    if ending not in endings:
        raise UsageError(
            f"--output must be a folder or end in {', '.join(endings)}. Received: {output}"
        )
    if len(names) == 1:
        return [output]
    return [output.with_stem(f"{output.stem}_{i + 1}") for i in range(len(names))]


def upscaled(images, factor):
    """Returns pictures `[N, H, W, C]` enlarged by a factor, with Lanczos' filter."""
    import numpy as np
    from PIL import Image

    if factor in (None, 1):
        return images
    height, width, channels = images.shape[1:]
    larger = []
    for image in images:
        # The channels one by one, so that one that is transparent does not darken its edge.
        planes = [
            Image.fromarray(np.ascontiguousarray(image[..., c])).resize(
                (width * factor, height * factor), Image.Resampling.LANCZOS
            )
            for c in range(channels)
        ]
        larger.append(np.stack([np.asarray(plane) for plane in planes], axis=-1))
    return np.stack(larger)


def write(path, save, *args, **options):
    """Calls `save(path, ...)`; what goes wrong is an error of the command."""
    try:
        save(path, *args, **options)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {one_line(error)}") from error
    return str(path)
