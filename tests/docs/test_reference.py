"""Every public name has an entry in the reference, and every entry is a name with a docstring."""

import importlib
import inspect
import pathlib
import re
import types

import pytest

import kgen

REFERENCE = pathlib.Path(__file__).parents[2] / "docs" / "reference"
ENTRIES = re.findall(
    r"^::: (\S+)$", "\n".join(p.read_text() for p in REFERENCE.glob("*.md")), re.MULTILINE
)
# Modules that are public themselves: those that `kgen.__all__` names, and their parts.
MODULES = [f"kgen.{name}" for name in kgen.__all__ if inspect.ismodule(getattr(kgen, name))]
MODULES += [f"kgen.diffusion.{name}" for name in ("prediction", "times", "weighting")]
MODULES += [f"kgen.data.{name}" for name in ("arrays", "drawings", "emoji", "folder", "grey")]
NOT_FOR_USERS = "kgen.likelihoods"  # whose functions, but for `get`, models alone call


def resolve(path):
    """The object of a dotted path."""
    parts = path.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        for part in parts[stop:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(path)


def public_names():
    """The dotted names of all that is public, but for modules."""
    found = [f"kgen.{name}" for name in kgen.__all__]
    for path in MODULES:
        module = resolve(path)
        names = getattr(module, "__all__", None) or [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
            if path != NOT_FOR_USERS or inspect.isclass(value) or name == "get"
        ]
        found += [f"{path}.{name}" for name in names]
    return [path for path in found if not isinstance(resolve(path), types.ModuleType)]


def test_every_public_name_has_an_entry():
    documented = [resolve(path) for path in ENTRIES]
    missing = [
        path for path in public_names() if not any(value is resolve(path) for value in documented)
    ]
    assert not missing


def test_no_name_has_two_entries():
    assert len(ENTRIES) == len(set(ENTRIES))


@pytest.mark.parametrize("path", ENTRIES)
def test_an_entry_says_what_it_is(path):
    value = resolve(path)
    if inspect.isclass(value) or inspect.isroutine(value):
        assert (inspect.getdoc(value) or "").strip().split("\n")[0].endswith((".", ":"))
