"""Imports point down, heavy packages load late, and no `assert` validates an argument."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "kgen"
MODULES = sorted(p for p in PACKAGE.rglob("*.py"))

VALUES = {
    "checks",
    "corruption",
    "distribution",
    "files",
    "gaussian",
    "layer_tree",
    "likelihoods",
    "penalties",
    "philox",
    "priors",
    "serialization",
    "symbolic",
    "tensors",
}
# What each room may import; value types are spelled out, since they have an order too.
ALLOWED = {
    "serialization": set(),
    "philox": set(),
    "tensors": {"philox", "serialization"},
    "types": set(),
    "distribution": set(),
    "gaussian": {"tensors"},
    "layer_tree": set(),
    "version": set(),
    "preset_names": set(),
    "presets": {"checks", "files", "layer_tree", "preset_names", "serialization", "version"},
    "checks": set(),
    "symbolic": {"checks"},
    "files": {"checks"},
    "corruption": {"checks", "serialization", "tensors"},
    "likelihoods": {"checks", "gaussian", "serialization", "tensors"},
    "penalties": {"checks", "serialization", "tensors"},
    "priors": {"checks", "gaussian", "serialization", "tensors"},
    "pictures": {"checks"},
    "fitting": set(),
    "diffusion": VALUES,
    "solvers": VALUES | {"diffusion"},
    "density": VALUES | {"diffusion", "solvers"},
    "sampling": VALUES | {"diffusion", "solvers", "conditioning"},
    "conditioning": VALUES | {"presets"},
    "training": VALUES | {"metrics"},
    "networks": VALUES,
    "data": VALUES,
    "metrics": VALUES,
    "models": VALUES
    | {"conditioning", "density", "diffusion", "metrics", "presets", "sampling", "solvers"}
    | {"training"},
    "callbacks": VALUES | {"metrics", "models", "pictures", "training"},
    "published": VALUES
    | {"conditioning", "diffusion", "models", "networks", "presets", "solvers", "training"},
    "serving": VALUES
    | {"conditioning", "data", "diffusion", "fitting", "models", "pictures", "sampling", "solvers"}
    | {"version"},
    "export": VALUES | {"models", "serving", "training"},
    "finetuning": VALUES | {"data", "models", "pictures"},
}
ALLOWED["api"] = {*ALLOWED}
ALLOWED["cli"] = {*ALLOWED, "cli"}
ALLOWED["__main__"] = {"cli"}


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(tree):
    """The rooms that a module imports when it is loaded; methods may import upward when called."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "kgen":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kgen."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("kgen."))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "every module says what it is"
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    here = room(path)
    if here == "__init__":
        return
    above = set(imported_rooms(tree)) - ALLOWED[here] - {here, "types"}
    assert not above, f"{here} must not import {above}"


def test_heavy_packages_load_when_first_used():
    heavy = ["keras_hub", "tensorflow_text", "tensorflow_datasets", "matplotlib", "PIL"]
    # Keras itself brings in some of them.
    code = (
        "import sys, keras; before = set(sys.modules); import kgen; "
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_another_backend_of_keras_is_refused():
    """By the name alone: the packages of other backends are not installed where tests run."""
    code = (
        "import keras\nkeras.backend.backend = lambda: 'jax'\n"
        "try:\n    import kgen\nexcept ImportError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "KERAS_BACKEND=tensorflow" in run.stdout
    assert "'jax'" in run.stdout
