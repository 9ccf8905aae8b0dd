"""Arrays of `fit` and `evaluate`, text among them, and errors where they do not belong together."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP

X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
PROMPTS = ["a", "apple", "red", "a"] * 2


def model_of(conditioner, pooled):
    process = GaussianDiffusion(CosineLogSNR(5.0, -5.0))
    network = TimeMLP(2, width=8, blocks=1, pooled=pooled)
    model = kgen.DiffusionModel(network, process, conditioner=conditioner, grey_levels=None, seed=0)
    model.compile(keras.optimizers.SGD(0.01))
    return model


def test_text_may_come_as_a_list_an_array_or_a_tensor(hashed_words):
    losses, bounds = [], []
    kinds = [PROMPTS, np.array(PROMPTS), np.array(PROMPTS, object), tf.constant(PROMPTS)]
    for prompts in kinds:
        keras.utils.set_random_seed(0)
        model = model_of(hashed_words, 8)
        data = {"images": X, "prompts": prompts}
        bounds.append(model.evaluate(data, verbose=0))
        losses += model.fit(data, batch_size=4, shuffle=False, verbose=0).history["loss"]
    assert len(set(losses)) == 1
    assert bounds[1:] == bounds[:-1]


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_one_value_for_all_examples_is_refused(method, hashed_words):
    with pytest.raises(ValueError, match="an entry for each example.*one value of 'prompts', 'a'"):
        getattr(model_of(hashed_words, 8), method)({"images": X, "prompts": "a"})


def test_a_network_that_would_be_told_nothing_is_refused(hashed_words):
    for conditioner in (Labels(3, 4), hashed_words):
        with pytest.raises(ValueError, match="`network` must have an input .* with `pooled="):
            model_of(conditioner, None)


def test_bits_per_dimension_of_points_are_those_of_their_density():
    """Pictures of real values are taken for grey levels with even noise; points have no levels."""
    model = model_of(None, None)
    logs = model.evaluate(X, verbose=0, return_dict=True)
    assert logs["bits_per_dim"] == pytest.approx(logs["bound"] / (2 * np.log(2)), rel=1e-5)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_arrays_of_different_lengths_are_refused(method):
    model = model_of(Labels(3, 4), 4)
    data = {"images": X, "labels": np.array([0, 1])}
    with pytest.raises(ValueError, match="same number of examples.*8 of 'images', 2 of 'labels'"):
        getattr(model, method)(data)
