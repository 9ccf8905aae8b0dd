"""Names of kgen in docstrings and pages are names of something."""

import ast
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NAME = re.compile(r"(?<!`)`(kgen(?:\.\w+)+)")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def names():
    """Pairs of a file and a dotted name in it."""
    for path in sorted((ROOT / "kgen").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DOCUMENTED):
                for name in NAME.findall(ast.get_docstring(node) or ""):
                    yield path.relative_to(ROOT), name
    for path in [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]:
        for name in NAME.findall(path.read_text(encoding="utf-8")):
            yield path.relative_to(ROOT), name


def exists(name):
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        for part in parts[stop:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


@pytest.fixture(scope="module")
def found():
    return list(names())


def test_every_name_exists(found):
    assert len(found) > 100
    assert not [f"{path}: {name}" for path, name in found if not exists(name)]


@pytest.mark.parametrize("name", ["kgen.diffusion.loss", "kgen.nothing", "kgen.VAE.nothing"])
def test_a_name_of_nothing_is_found(name):
    assert not exists(name)
