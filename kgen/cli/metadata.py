"""What a picture file says of how it was made, written by `kgen` and read again.

    prompt, negative, seed, model, model_sha256, settings      text chunks of a PNG, by these names

`settings` is JSON: steps, guidance, solver, size and what else decided the picture. JPEG, WebP and
GIF hold the same dictionary as JSON in one text.
"""

import json

from kgen.cli.errors import CommandError, UsageError, one_line
from kgen.version import __version__

KEYS = ("Software", "prompt", "negative", "seed", "model", "model_sha256", "settings")
MAX_CHARACTERS = 2**20


def written_by():
    """Name and version of this program."""
    return f"kgen {__version__}"


def describe(*, model, model_sha256, settings, prompt=None, negative=None, seed=None):
    """Returns what a file is to say, a dictionary of strings without what there is not."""
    values = {
        "Software": written_by(),
        "prompt": prompt,
        "negative": negative,
        "seed": None if seed is None else str(seed),
        "model": str(model),
        "model_sha256": model_sha256,
        "settings": json.dumps({k: v for k, v in settings.items() if v is not None}),
    }
    return {name: value for name, value in values.items() if value is not None}


def read(path):
    """Returns what a picture says of itself, and format, size and number of frames of the file.

    Args:
        path: of a picture from anywhere.

    Returns:
        Two dictionaries; the first has the keys of `KEYS` that are there, `settings` as a
        dictionary, and is empty where `kgen` did not make the picture.

    Raises:
        CommandError: if the file is no picture that can be read.
        UsageError: if there is no such file.
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
            said = _texts(image)
    except Exception as error:  # a broken file can make Pillow raise nearly anything
        raise CommandError(f"{path} is no picture that can be read: {one_line(error)}") from error
    return _checked(said), facts


def _texts(image):
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


def _checked(said):
    said = {k: str(said[k])[:MAX_CHARACTERS] for k in KEYS if k in said}
    if not said.get("Software", "").startswith("kgen "):
        return {}
    try:
        settings = json.loads(said.pop("settings", "{}"))
    except (ValueError, RecursionError):
        settings = {}
    said["settings"] = settings if isinstance(settings, dict) else {}
    return said
