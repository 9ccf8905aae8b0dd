"""Models by name or folder: found, opened, and asked what a command can do with them."""

import hashlib
import json
import pathlib

from kgen import preset_names
from kgen.cli.errors import UsageError, arguments_from_user, files_from_user
from kgen.preset_names import CONFIG, WEIGHTS
from kgen.serving.typed import class_names, takes


def places():
    """The folders in which models have names: of the present folder, and those of the library."""
    return [pathlib.Path("saved_models"), *preset_names.places()]


def names():
    """The names of the models that are there."""
    found = {p.parent.name for place in places() for p in place.glob(f"*/{WEIGHTS}")}
    return sorted(found)


def locate(name):
    """Returns the folder of a model.

    Args:
        name: a folder, the name of a model in `saved_models`, or `hf://owner/name`.

    Raises:
        CommandError: if the hub cannot be reached.
        UsageError: if there is none.
    """
    if str(name).startswith(preset_names.HUB):
        with files_from_user(f"{name} cannot be fetched"):
            return preset_names.fetched(str(name))
    given = pathlib.Path(name)
    candidates = [given]
    if given.name == str(name):
        candidates += [place / name for place in places()]
    for path in candidates:
        if (path / CONFIG).is_file() and list(path.glob(f"*{WEIGHTS}")):
            return path
    known = ", ".join(names()) or "none is here"
    raise UsageError(
        f"no model {str(name)!r}: give a folder with {CONFIG} and {WEIGHTS}, or a name ({known})"
    )


def open_model(name, session, dtype="float32"):
    """Returns a model and its folder."""
    path = locate(name)
    session.say(f"Opening {name}")
    import kgen

    with files_from_user(f"the model {name} cannot be opened"):
        return kgen.from_preset(path, dtype=dtype), path


def sum_of(path):
    """The sha256 of the weights in the folder of a model."""
    try:
        said = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("sha256")
    except (OSError, ValueError, AttributeError):
        said = None
    if isinstance(said, str):
        return said
    with open(path / WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_draws_pictures(model):
    """Raises a `UsageError` for a model that draws no pictures."""
    kind, shape = type(model).__name__, tuple(model.data_shape)
    if not hasattr(model, "generate"):
        raise UsageError(f"a {kind} cannot draw, only code and decode")
    if len(shape) != 3 or shape[-1] not in (1, 3, 4):
        raise UsageError(f"the model draws values of shape {shape}, which are no pictures")


def condition(model, texts, what="a prompt"):
    """Returns the condition of the texts of a person, for `generate`.

    Args:
        model: the model.
        texts: a list of strings, or an empty one.
        what: what is missing, for the message.

    Raises:
        UsageError: if the model does not take them.
    """
    kind = takes(model)
    if kind is None:
        if texts:
            raise UsageError(f"the model takes no text. Received: {texts[0]!r}")
        return None
    if kind == "other":
        raise UsageError(
            f"the model is conditional on {model.conditioner.batch_key}, which cannot be typed; "
            "use `model.generate` in Python"
        )
    known = class_names(model)
    if not texts:
        if kind == "classes":
            what = f"a class: {', '.join(known)}" if known else "the number of a class"
        raise UsageError(f"the model needs {what}")
    values = list(texts)
    if kind == "classes" and all(text.isdigit() for text in texts):
        values = [int(text) for text in texts]
    with arguments_from_user():
        model.conditioner.prepare(values)
    return values
