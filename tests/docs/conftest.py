"""Runs the Python code of a page or a notebook, as a reader would, at quick sizes.

The blocks of a page run in order in one namespace, in a folder of their own in which the
repository's `saved_models` and `examples` can be reached. What stands in an HTML comment is not
seen by readers:

    <!-- hidden              code that runs before what follows, such as a folder of pictures
    ... -->
    <!-- in full -->         the next block runs as it is written: by default `fit`, `evaluate` and
                             `measure_latents` take two batches and one epoch, `generate`, `invert`
                             and `precompute` few steps and examples
    <!-- not run: why -->    the next block does not run

MNIST and Fashion-MNIST, which would be downloaded, are the emoji of `kgen.data.grey` here.
"""

import contextlib
import inspect
import json
import pathlib
import re
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly

from kgen.data import grey
from kgen.diffusion.prediction import PREDICTION_TYPES
from kgen.diffusion.weighting import WEIGHTINGS
from kgen.models.denoiser_model import DenoiserModel
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.models.latent_diffusion import LatentDiffusion
from kgen.models.vae import VAE
from kgen.training.model import TermsModel

ROOT = pathlib.Path(__file__).parents[2]
PATTERN = re.compile(
    r"<!-- hidden\n(?P<hidden>.*?)-->|<!-- (?P<directive>in full|not run: [^>]+) -->"
    r"|^(?P<indent> *)```python\n(?P<code>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
STEPS, BATCHES, ROWS = 3, 2, 16


def blocks(page):
    """The code of a page: `(line, source, whether it runs in full)`, and the blocks not run.

    A notebook's code is that of its cells; the line of a cell is its number.
    """
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text())["cells"]
        codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return [(number, code, False) for number, code in enumerate(codes, 1)], []
    text, found, left_out, directive = page.read_text(), [], [], None
    for match in PATTERN.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        if match["hidden"] is not None:
            found.append((line, match["hidden"], True))
        elif match["directive"]:
            directive = match["directive"]
            continue
        elif directive and directive.startswith("not run"):
            left_out.append(line)
        else:
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            found.append((line, code, directive == "in full"))
        directive = None
    return found, left_out


def few(data):
    """The first batches of a data set, cut to few rows, or the first rows of arrays."""
    if isinstance(data, tf.data.Dataset):
        return data.take(BATCHES).map(few)
    return None if data is None else keras.tree.map_structure(lambda rows: rows[:ROWS], data)


def quick(patch):
    """Makes trainings and draws short."""

    def shorten(cls, name, change):
        original = getattr(cls, name)
        signature = inspect.signature(original)

        def short(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            change(bound.arguments)
            return original(*bound.args, **bound.kwargs)

        patch.setattr(cls, name, short)

    def data(*names):
        def change(arguments):
            arguments.update({name: few(arguments.get(name)) for name in names})
            if "epochs" in arguments:
                arguments["epochs"] = min(arguments["epochs"], 1)

        return change

    def steps(arguments):
        if "num_steps" in arguments or "solver" not in arguments:
            arguments["num_steps"] = min(arguments.get("num_steps") or STEPS, STEPS)
        arguments.setdefault("num_steps", STEPS)
        if arguments.get("num_samples"):
            arguments["num_samples"] = min(arguments["num_samples"], ROWS)

    def samples(arguments):
        arguments["num_samples"] = min(arguments.get("num_samples") or 10, 10)

    shorten(TermsModel, "fit", data("x", "y"))
    shorten(TermsModel, "evaluate", data("x", "y"))
    shorten(KLAutoencoder, "measure_latents", data("dataset"))
    shorten(LatentDiffusion, "precompute", data("dataset"))
    shorten(DenoiserModel, "generate", steps)
    shorten(DenoiserModel, "invert", steps)
    shorten(VAE, "log_likelihood", samples)


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """A function that runs a page: in graphs, or operation by operation if not `traced`."""
    for name in ("saved_models", "examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    tables = [(table, dict(table)) for table in (PREDICTION_TYPES, WEIGHTINGS)]
    load, load_arrays = grey.load, grey.load_arrays
    monkeypatch.setattr(
        grey, "load", lambda name="mnist", *args, **kwargs: load("emoji", *args, **kwargs)
    )
    monkeypatch.setattr(
        grey, "load_arrays", lambda name="mnist", *args, **kw: load_arrays("emoji", *args, **kw)
    )

    def run(page, traced=True):
        keras.utils.set_random_seed(0)
        np.random.seed(0)
        found, _ = blocks(page)
        assert found, f"{page} has no code"
        namespace = {"__name__": "page"}
        for line, source, full in found:
            code = compile("\n" * (line - 1) + source, str(page), "exec")
            with pytest.MonkeyPatch.context() as patch:
                if not full:
                    quick(patch)
                try:
                    with contextlib.nullcontext() if traced else eagerly():
                        exec(code, namespace)
                except Exception as error:
                    where = [f for f in traceback.extract_tb(error.__traceback__)]
                    lines = [f.lineno for f in where if f.filename == str(page)]
                    pytest.fail(
                        f"{page.relative_to(ROOT)}, line {lines[0] if lines else line}: "
                        f"{type(error).__name__}: {error}"
                    )
        return namespace

    yield run
    for table, rows in tables:  # without the rows that a page has added
        table.clear()
        table.update(rows)


@pytest.fixture(scope="session")
def blocks_of():
    """The function `blocks`."""
    return blocks
