"""Presets by name: the folders in which they are found, and presets of the Hugging Face hub.

    text_to_image     a preset with this name in the first of `preset_folders()` that has it
    hf://owner/name   a repository of the hub; it may be followed by `@` and a revision, which fixes
                      its state

The configuration of a model cannot name a preset, so that opening a preset never accesses the
network unless the caller gave a name of the hub. A preset of the hub is checked like any folder,
and its configuration must give the sha256 of its weights.
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
    """Returns the folder of a user's presets: `$KGEN_HOME`, or `kgen` in the user's cache."""
    if os.environ.get("KGEN_HOME"):
        return pathlib.Path(os.environ["KGEN_HOME"])
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "kgen"


def preset_folders() -> list[pathlib.Path]:
    """Returns the folders that are searched for a name: cache, installed package, repository."""
    package = pathlib.Path(__file__).parent
    return [cache_folder(), package / "saved_models", package.parent / "saved_models"]


def list_presets() -> list[str]:
    """Returns the names of the available presets, for `kgen.from_preset`.

    Example:
        >>> "text_to_image" in list_presets()
        True
    """
    return sorted({p.parent.name for f in preset_folders() for p in f.glob(f"*/{WEIGHTS}")})


def locate(name: str | os.PathLike) -> str | os.PathLike:
    """Returns the folder of a preset, downloading it if it is a name of the hub.

    Args:
        name: a folder, a name, or `"hf://owner/name"`.

    Returns:
        The folder; `name` itself if it is neither an existing folder nor a known name.

    Raises:
        ImportError: for a name of the hub, if `huggingface_hub` is not installed.
        ValueError: if a name of the hub has another form.
    """
    if isinstance(name, str) and name.startswith(HUB):
        return download(name)
    if not isinstance(name, str | os.PathLike):
        return name  # the caller reports the wrong type
    path = pathlib.Path(name)
    if path.exists() or not _PLAIN.fullmatch(str(name)):
        return path
    for folder in preset_folders():
        if (folder / name / CONFIG).is_file():
            return folder / name
    return path


def download(name: str) -> pathlib.Path:
    """Downloads the files of a preset of the hub that the cache lacks; returns its folder.

    Args:
        name: `"hf://owner/name"` or `"hf://owner/name@revision"`.

    Raises:
        ImportError: if `huggingface_hub` is not installed.
        OSError: if the hub cannot be reached, or has no such repository or revision.
        ValueError: if `name` has another form.
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
    # A folder of regular files: the hub's own cache has symbolic links, which a preset must not.
    folder = cache_folder() / "hub" / owner / f"{model}@{revision or 'main'}"
    huggingface_hub.snapshot_download(
        f"{owner}/{model}", revision=revision, allow_patterns=list(FILES), local_dir=folder
    )
    return folder
