"""The tables of methods in docs/road: every call in them runs as it is typed."""

import dataclasses
import pathlib
import re

import keras
import numpy as np
import pytest
from exact import exact

import kgen
from kgen.networks import TimeMLP

ROAD = pathlib.Path(__file__).parents[2] / "docs" / "road"
TEXT = "\n".join(page.read_text() for page in sorted(ROAD.glob("*.md")))
NAMES = {**vars(kgen.diffusion), **vars(kgen.solvers), "generate": dict}


def settings():
    """Model, process, options and arguments of `generate` of each row, for each "or" in it."""
    found = []
    for table in re.findall(r"^\| method \| process .*\n(?:\|.*\n)*", TEXT, re.MULTILINE):
        head, _, *rows = table.splitlines()
        model, cell = re.search(r"options of `(\w+)`", head)[1], ""
        for row in rows:
            method, process, text = (part.strip() for part in row.strip("|").split(" | "))
            process = "GaussianDiffusion(LinearBeta())" if process == "any" else process.strip("`")
            cell = cell if text == "the same" else text
            spans = re.findall(r"`(.+?)`", cell)
            draws = [span for span in spans if span.startswith("generate")] or ["generate()"]
            options = [span for span in spans if span not in draws]
            for span in options:  # the first one has what the others change
                values = f"{{**dict({options[0]}), **dict({span})}}"
                found.append(pytest.param(model, process, values, draws[0], id=f"{method}-{span}"))
    return found


def drawing():
    """The settings that say how to draw."""
    return [param for param in settings() if "solver=" in param.values[3]]


def test_the_tables_are_found():
    names = {param.id.split("-")[0] for param in settings()}
    assert {"DDPM", "DDIM", "EDM", "flow matching", "NCSN", "VE SDE"} <= names
    assert len(settings()) == 18
    assert len(drawing()) >= 7


@pytest.mark.parametrize(("model", "process", "options", "draw"), settings())
def test_every_setting_runs_as_typed(model, process, options, draw, gaussian_data):
    keras.utils.set_random_seed(0)
    process, options, draw = (eval(text, NAMES) for text in (process, options, draw))
    model = getattr(kgen, model)(
        TimeMLP(2, width=8, blocks=1), process, grey_levels=None, seed=0, **options
    )
    model.compile(keras.optimizers.Adam(1e-2))
    logs = model.fit(gaussian_data.sample(200).astype("float32"), verbose=0).history
    assert np.isfinite(list(logs.values())).all()
    assert model.generate(num_samples=3, seed=0, **{"num_steps": 5, **draw}).shape == (3, 2)


@pytest.mark.parametrize(("model", "process", "options", "draw"), drawing())
def test_every_way_of_drawing_ends_at_the_data(model, process, options, draw, gaussian_data):
    """With the exact denoiser in the place of a network, what is left is that of the solver."""
    process, options, draw = (eval(text, NAMES) for text in (process, options, draw))
    draw = {"num_steps": 200, **draw}
    data = dataclasses.replace(gaussian_data, mean=np.zeros(2), std=np.full(2, 0.5))
    model = exact(data, process, model=getattr(kgen, model), **{"prediction": "eps", **options})
    drawn = model.generate(num_samples=4000, seed=0, batch_size=4000, **draw)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.04)
    if isinstance(draw.get("solver"), kgen.solvers.AnnealedLangevin):
        expected = annealed_std(draw["solver"], process, draw["num_steps"], 0.5)
        np.testing.assert_allclose(drawn.std(0), expected, rtol=0.05)  # 4 of the estimate's own
    else:
        np.testing.assert_allclose(drawn.std(0), 0.5, rtol=0.1)


def annealed_std(solver, process, num_steps, std):
    """What a linear chain makes of the standard deviation of N(0, std^2), step by step."""
    sigmas = [float(process.alpha_sigma(t)[1]) for t in np.linspace(1.0, 0.0, num_steps + 1)]
    var = sigmas[0] ** 2
    for sigma in sigmas[1:]:
        a = (solver.step_size * sigma) ** 2
        for _ in range(solver.langevin_steps):
            var = var * (1 - a / 2 / (std**2 + sigma**2)) ** 2 + a
    return var**0.5 * std**2 / (std**2 + sigmas[-1] ** 2)
