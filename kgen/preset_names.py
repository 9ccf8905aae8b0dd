"""Presets by name: where they lie, and how they come from a hub.

    text_to_image     a folder of this name in one of `places()`, the first that has it
    hf://owner/name   in the hub of Hugging Face; only where the caller says so. `@` and a revision
                      behind it name one state for good

No configuration of a model names a preset, so none makes kgen ask a network. What comes from a hub
is checked as any folder is, and its configuration must name the sha256 of its weights.
"""

import os
import pathlib
import re

CONFIG, WEIGHTS, NEXT = "config.json", "weights.npz", ".next-weights.npz"
HUB = "hf://"
_PLAIN = re.compile(r"\w[\w.-]{0,95}")
_HUB = re.compile(r"hf://(\w[\w.-]{0,95})/(\w[\w.-]{0,95})(?:@(\w[\w.-]{0,95}))?")
FILES = (CONFIG, WEIGHTS, "README.md", "text_encoder_*/*", "text_encoder_*/assets/*/*")


def cache_folder() -> pathlib.Path:
    """The folder of presets that a person keeps: `$KGEN_HOME`, or `kgen` in the user's cache."""
    if os.environ.get("KGEN_HOME"):
        return pathlib.Path(os.environ["KGEN_HOME"])
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "kgen"


def places() -> list[pathlib.Path]:
    """The folders in which presets have names: the cache, the installed package, the checkout."""
    package = pathlib.Path(__file__).parent
    return [cache_folder(), package / "saved_models", package.parent / "saved_models"]


def list_presets() -> list[str]:
    """The names of the presets that are there, for `kgen.from_preset`.

    Example:
        >>> "text_to_image" in list_presets()
        True
    """
    return sorted({p.parent.name for place in places() for p in place.glob(f"*/{WEIGHTS}")})


def located(name: str | os.PathLike) -> str | os.PathLike:
    """Returns the folder of a preset.

    Args:
        name: a folder, a name, or `"hf://owner/name"`.

    Raises:
        ImportError: if the hub is asked for and `huggingface_hub` is not installed.
        TypeError: if `name` is no path.
        ValueError: if a name of the hub has another form.
    """
    if isinstance(name, str) and name.startswith(HUB):
        return fetched(name)
    if not isinstance(name, str | os.PathLike):
        return name  # for the message of who opens it
    path = pathlib.Path(name)
    if path.exists() or not _PLAIN.fullmatch(str(name)):
        return path
    for place in places():
        if (place / name / CONFIG).is_file():
            return place / name
    return path


def fetched(name: str) -> str | os.PathLike:
    """Returns the folder of a preset of the hub, fetching what is not in the cache.

    Args:
        name: `"hf://owner/name"` or `"hf://owner/name@revision"`.
    """
    match = _HUB.fullmatch(name)
    if match is None:
        raise ValueError(
            f'A preset of the hub must be named "hf://owner/name". Received: {name!r}.'
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"{name!r} needs the package huggingface_hub, of the extra `hub`: "
            "pip install 'kgen-keras[hub]'; or give a folder."
        ) from error
    owner, model, revision = match.groups()
    # Files and not links to files elsewhere, which a preset must not have.
    folder = cache_folder() / "hub" / owner / f"{model}@{revision or 'main'}"
    huggingface_hub.snapshot_download(
        f"{owner}/{model}", revision=revision, allow_patterns=list(FILES), local_dir=folder
    )
    return folder
