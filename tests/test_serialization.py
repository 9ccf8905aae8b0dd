"""`serializable` on dataclasses and layers, nested and with tuples."""

import dataclasses

import keras
import pytest

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearBeta, LinearLogSNR
from kgen.serialization import serializable
from kgen.solvers import DDIM, DPMSolver, Heun


def round_trip(value):
    return keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(value))


@pytest.mark.parametrize(
    "value",
    [
        GaussianDiffusion(CosineLogSNR()),
        GaussianDiffusion(LinearLogSNR(8.0, -8.0), scaling="flow"),
        GaussianDiffusion(LinearBeta(), scaling="ve"),
        DDIM(eta=0.5),
        DPMSolver(order=3),
        Heun(),
    ],
    ids=repr,
)
def test_values_round_trip(value):
    assert round_trip(value) == value


@serializable
class Scaled(keras.layers.Layer):
    def __init__(self, inner, factors, *, offset=0.0, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.factors = factors
        self.offset = offset

    def call(self, x):
        return self.inner(x) * self.factors[0] + self.offset


def test_layers_round_trip_with_what_they_hold():
    layer = Scaled(keras.layers.Dense(3, name="d"), (2.0, (3.0,)), offset=1.0, name="s")
    again = round_trip(layer)
    assert (again.name, again.factors, again.offset) == ("s", (2.0, (3.0,)), 1.0)
    assert again.inner.get_config() == layer.inner.get_config()


def test_the_dtype_policy_is_kept():
    layer = Scaled(keras.layers.Dense(3), (1.0,), dtype="mixed_bfloat16")
    assert round_trip(layer).dtype_policy.name == "mixed_bfloat16"


def test_required_arguments_stay_required():
    with pytest.raises(TypeError, match="inner"):
        Scaled()


def test_a_frozen_dataclass_stays_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DDIM().eta = 0.5
