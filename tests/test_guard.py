"""Steps that would ruin a training are skipped; many in a row end it with a reason."""

import keras
import numpy as np
import pytest

import kgen
from kgen.callbacks import Guard
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP

X = np.random.default_rng(0).normal(size=(80, 2)).astype("float32")


def make(bad=lambda step: False, **options):
    """A model whose loss is not finite in the steps that `bad` names."""
    keras.utils.set_random_seed(0)
    process = GaussianDiffusion(CosineLogSNR())
    network = TimeMLP(2, width=8, blocks=1)
    model = kgen.DiffusionModel(network, process, grey_levels=None, seed=0, ema_decay=0.9)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True, **options)
    plain, steps = model.loss_terms, []

    def loss_terms(batch, training=False, seed=None):
        terms = plain(batch, training, seed)
        if training:
            steps.append(1)
        factor = np.nan if training and bad(len(steps)) else 1.0
        return {name: factor * term for name, term in terms.items()}

    model.loss_terms = loss_terms
    return model


def test_single_bad_steps_do_no_harm():
    model = make(lambda step: step in (2, 3, 6), skip_above=float("inf"))
    model.fit(X, batch_size=10, epochs=1, verbose=0, callbacks=[Guard(stop_after=3)])
    assert int(model.skipped_steps) == 3
    assert int(model.optimizer.iterations) == 5
    assert all(np.isfinite(v).all() for v in model.weights)


def test_many_in_a_row_end_the_training_with_the_name_of_the_term():
    model = make(lambda step: step > 2, skip_above=float("inf"))
    with pytest.raises(FloatingPointError, match="3 steps in a row .* weighted_denoising"):
        model.fit(X, batch_size=10, epochs=1, verbose=0, callbacks=[Guard(stop_after=3)])
    good = make(skip_above=float("inf"))
    good.fit(X[:20], batch_size=10, epochs=1, verbose=0, shuffle=False)
    assert int(model.optimizer.iterations) == 2
    assert all(np.isfinite(v).all() for v in model.weights)


def test_large_gradients_are_skipped_too():
    model = make(skip_above=1e-9)
    with pytest.raises(FloatingPointError, match="All terms are finite"):
        model.fit(X, batch_size=10, epochs=1, verbose=0, callbacks=[Guard(stop_after=2)])
    assert int(model.optimizer.iterations) == 0


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="needs a model compiled with `skip_above`"):
        make().fit(X, verbose=0, callbacks=[Guard()])
    with pytest.raises(ValueError, match="`stop_after` must be"):
        Guard(stop_after=0)
