"""The names of options in annotations are those that are accepted."""

import ast
import inspect
import itertools
import pathlib
from typing import get_args

import pytest

import kgen
from kgen import likelihoods, solvers, types
from kgen.diffusion import discrete_beta, prediction, process, times, weighting

PACKAGE = pathlib.Path(kgen.__file__).parent


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (types.Scaling, process.SCALINGS),
        (types.Prediction, prediction.PREDICTION_TYPES),
        (types.Weighting, weighting.WEIGHTINGS),
        (types.TimeSampler, times.TIME_SAMPLERS),
        (types.TimeGrid, times.TIME_GRIDS),
        (types.SolverName, solvers.SOLVERS),
        (types.LikelihoodName, likelihoods.LIKELIHOODS),
        (discrete_beta.DiscreteBeta.__annotations__["kind"], discrete_beta.KINDS),
    ],
    ids=lambda value: None,
)
def test_literal_types_are_the_keys_of_their_tables(names, table):
    assert sorted(get_args(names)) == sorted(table)


def test_the_package_declares_its_annotations():
    assert (PACKAGE / "py.typed").is_file()


def test_aliases_say_what_they_are():
    body = ast.parse(inspect.getsource(types)).body
    following = [
        after for node, after in itertools.pairwise(body) if isinstance(node, ast.AnnAssign)
    ]
    assert len(following) > 10
    assert all(isinstance(node, ast.Expr) and len(node.value.value) > 20 for node in following)
