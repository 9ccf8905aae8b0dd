"""Finding and opening a model, and converting prompts to its condition."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kgen.cli.errors import UsageError, arguments_from_user, files_from_user
from kgen.preset_names import CONFIG, HUB, WEIGHTS, download
from kgen.preset_names import preset_folders as default_folders
from kgen.serving.capabilities import class_names, condition_kind

if TYPE_CHECKING:
    from kgen.cli.session import Session
    from kgen.models.generative_model import GenerativeModel


def preset_folders() -> list[pathlib.Path]:
    """Returns the folders that are searched for a name: `./saved_models`, then kgen's own."""
    return [pathlib.Path("saved_models"), *default_folders()]


def model_names() -> list[str]:
    """Returns the names of all models in these folders."""
    return sorted({p.parent.name for f in preset_folders() for p in f.glob(f"*/{WEIGHTS}")})


def locate(name: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of a model.

    Args:
        name: a folder, the name of a model in `saved_models`, or `hf://owner/name`.

    Raises:
        CommandError: if the model cannot be downloaded from the hub.
        UsageError: if there is no such model.
    """
    if str(name).startswith(HUB):
        with files_from_user(f"{name} cannot be downloaded"):
            return download(str(name))
    path = pathlib.Path(name)
    candidates = [path]
    if path.name == str(name):
        candidates += [folder / name for folder in preset_folders()]
    for candidate in candidates:
        if (candidate / CONFIG).is_file() and list(candidate.glob(f"*{WEIGHTS}")):
            return candidate
    known = ", ".join(model_names()) or "there are none"
    raise UsageError(
        f"no model {str(name)!r}: give a folder with {CONFIG} and {WEIGHTS}, or a name ({known})"
    )


def open_model(
    name: str | pathlib.Path, session: Session, dtype: str = "float32"
) -> tuple[GenerativeModel, pathlib.Path]:
    """Opens a model.

    Args:
        name: see `locate`.
        session: the `Session`.
        dtype: see `kgen.from_preset`.

    Returns:
        The model and its folder.

    Raises:
        CommandError: if the model cannot be downloaded or opened.
        UsageError: if there is no such model.
    """
    folder = locate(name)
    session.say(f"Opening {name}")
    import kgen

    with files_from_user(f"the model {name} cannot be opened"):
        return kgen.from_preset(folder, dtype=dtype), folder


def weights_sha256(folder: pathlib.Path) -> str:
    """Returns the sha256 of the weights in the folder of a model, in hexadecimal."""
    try:
        digest = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("sha256")
    except (OSError, ValueError, AttributeError):
        digest = None
    if isinstance(digest, str):
        return digest
    with open(folder / WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_generates_pictures(model: GenerativeModel) -> None:
    """Checks that a model generates pictures.

    Raises:
        UsageError: if the model cannot generate, or generates data that are not pictures.
    """
    kind, shape = type(model).__name__, tuple(model.data_shape)
    if not hasattr(model, "generate"):
        raise UsageError(f"a {kind} cannot generate pictures, only encode and decode them")
    if len(shape) != 3 or shape[-1] not in (1, 3, 4):
        raise UsageError(f"the model generates data of shape {shape}, which are not pictures")


def parse_condition(model: GenerativeModel, texts: Sequence[str]) -> list[str | int] | None:
    """Converts prompts, or names or numbers of classes, to the condition of `generate`.

    Args:
        model: the model.
        texts: the texts from the command line; may be empty.

    Returns:
        One value for each text; None for a model without a condition.

    Raises:
        UsageError: if the model does not accept the texts, or needs at least one.
    """
    kind = condition_kind(model)
    if kind is None:
        if texts:
            raise UsageError(f"the model takes no text. Received: {texts[0]!r}")
        return None
    if kind == "other":
        raise UsageError(
            f"the model is conditional on {model.conditioner.batch_key}, which cannot be typed; "
            "use `model.generate` in Python"
        )
    names = class_names(model)
    if not texts:
        what = "a prompt"
        if kind == "classes":
            what = f"a class: {', '.join(names)}" if names else "the number of a class"
        raise UsageError(f"the model needs {what}")
    values: list[str | int] = list(texts)
    if kind == "classes" and all(text.isdigit() for text in texts):
        values = [int(text) for text in texts]
    with arguments_from_user():
        model.conditioner.prepare(values)
    return values
