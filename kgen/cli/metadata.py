"""The metadata of a picture file that describe how it was made.

    prompt, negative, seed, model, model_sha256, settings      text chunks of a PNG, by these names

`settings` is JSON with the number of steps, the guidance scale, the solver, the size and the other
settings that determine the picture. JPEG, WebP and GIF files store the same dictionary as JSON in
one text.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kgen.cli.errors import CommandError, UsageError, one_line
from kgen.version import __version__

if TYPE_CHECKING:
    from PIL import Image

KEYS = ("Software", "prompt", "negative", "seed", "model", "model_sha256", "settings")
MAX_CHARACTERS = 2**20


def software() -> str:
    """Returns the name and version of this program."""
    return f"kgen {__version__}"


def describe(
    *,
    model: str | pathlib.Path,
    model_sha256: str | None,
    settings: Mapping[str, Any],
    prompt: str | None = None,
    negative: str | None = None,
    seed: int | None = None,
) -> dict[str, str]:
    """Returns the metadata of a picture.

    Args:
        model: name or folder of the model.
        model_sha256: sha256 of the weights of the model, in hexadecimal, if known.
        settings: values that JSON can hold; entries that are None are left out.
        prompt: the prompt, if any.
        negative: the negative prompt, if any.
        seed: the seed of the picture, if any.

    Returns:
        Text by the names of `KEYS`, without those that are None.
    """
    values = {
        "Software": software(),
        "prompt": prompt,
        "negative": negative,
        "seed": None if seed is None else str(seed),
        "model": str(model),
        "model_sha256": model_sha256,
        "settings": json.dumps({k: v for k, v in settings.items() if v is not None}),
    }
    return {name: value for name, value in values.items() if value is not None}


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the metadata and the format of a picture file.

    Args:
        path: a picture file from any source.

    Returns:
        Two dictionaries. The first holds the metadata by the names of `KEYS`, with `settings` as a
        dictionary; it is empty if kgen did not write the file. The second holds `format`, `size`
        (height and width), `mode` and `frames` (their number).

    Raises:
        CommandError: if the file cannot be read as a picture.
        UsageError: if the file does not exist.
    """
    from kgen.data.picture_files import open_picture

    if not path.is_file():
        raise UsageError(f"no file {path}")
    try:
        with open_picture(path) as image:
            facts = {
                "format": image.format,
                "size": [image.height, image.width],
                "mode": image.mode,
                "frames": getattr(image, "n_frames", 1),
            }
            values = _read_values(image)
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise CommandError(f"{path} cannot be read as a picture: {one_line(error)}") from error
    return _validated(values), facts


def _read_values(image: Image.Image) -> dict[str, Any]:
    """Returns the text chunks of a PNG, or the JSON dictionary of another file."""
    from kgen.pictures import DESCRIPTION

    if image.format == "PNG":
        return dict(getattr(image, "text", {}))
    text = image.info.get("comment") if image.format == "GIF" else image.getexif().get(DESCRIPTION)
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    try:
        found = json.loads(text) if text and len(text) <= MAX_CHARACTERS else {}
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _validated(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of `KEYS` with `settings` parsed; empty if kgen did not write them."""
    known: dict[str, Any] = {k: str(values[k])[:MAX_CHARACTERS] for k in KEYS if k in values}
    if not known.get("Software", "").startswith("kgen "):
        return {}
    try:
        settings = json.loads(known.pop("settings", "{}"))
    except (ValueError, RecursionError):
        settings = {}
    known["settings"] = settings if isinstance(settings, dict) else {}
    return known
