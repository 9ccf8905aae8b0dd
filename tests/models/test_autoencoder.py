"""The autoencoder: its errors and penalties, and what principal components say of the best one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.corruption import GaussianNoise
from kgen.networks import mlp
from kgen.penalties import L1, Contractive, TargetRate

SEED = tf.constant([1, 2])
X = np.random.default_rng(0).normal(size=(400, 5)).astype("float32") * [3, 2, 0.5, 0.3, 0.1]
X = X.astype("float32")


def linear(**options):
    keras.utils.set_random_seed(0)
    return kgen.Autoencoder(mlp((5,), (2,), hidden=()), mlp((2,), (5,), hidden=()), **options)


def test_the_best_linear_autoencoder_is_that_of_principal_components():
    model = linear(seed=0)
    rate = keras.optimizers.schedules.CosineDecay(0.05, 600)
    model.compile(keras.optimizers.Adam(rate))
    model.fit(X, epochs=30, batch_size=20, verbose=0)
    left = np.sort(np.linalg.eigvalsh(np.cov(X.T, ddof=0)))[:-2].sum()
    error = model.evaluate(X, verbose=0, return_dict=True)["reconstruction"]
    assert error == pytest.approx(left, rel=0.01)


@pytest.mark.parametrize("error", ["squared", "absolute", "cross_entropy"])
def test_errors(error):
    x = np.clip(X, 0, 1) if error == "cross_entropy" else X
    model = linear(error=error)
    output = model.decoder(model.encoder(x)).numpy().astype("float64")
    p = 1 / (1 + np.exp(-output))
    expected = {
        "squared": (x - output) ** 2,
        "absolute": np.abs(x - output),
        "cross_entropy": -(x * np.log(p) + (1 - x) * np.log(1 - p)),
    }[error]
    terms = model.loss_terms(x, seed=SEED)
    np.testing.assert_allclose(terms["reconstruction"], expected.sum(1), rtol=1e-3, atol=1e-4)
    shown = p if error == "cross_entropy" else output
    np.testing.assert_allclose(model.reconstruct(x), shown, rtol=1e-4, atol=1e-5)


def test_penalties_of_one_kind_are_refused():
    with pytest.raises(ValueError, match=r"`penalties` must be one of each kind. .*'l1', 'l1'"):
        linear(penalties=(L1(0.1), L1(2.0)))


def test_penalties_are_terms_of_the_loss():
    penalties = (L1(0.1), Contractive(0.2))
    model = linear(penalties=penalties)
    kernel = model.encoder.get_weights()[0]
    terms = model.loss_terms(X, seed=SEED)
    assert set(terms) == set(model.term_names) == {"reconstruction", "l1", "contractive"}
    np.testing.assert_allclose(terms["contractive"], 0.2 * (kernel**2).sum(), rtol=1e-4)
    np.testing.assert_allclose(terms["l1"], 0.1 * np.abs(model.encode(X)).sum(1), rtol=1e-4)


def test_corruption_is_for_training_only_and_the_target_is_clean():
    model = linear(corruption=GaussianNoise(1.0))
    clean = model.loss_terms(X, seed=SEED)["reconstruction"]
    np.testing.assert_allclose(clean, linear().loss_terms(X, seed=SEED)["reconstruction"])
    noisy = model.loss_terms(X, training=True, seed=SEED)["reconstruction"]
    # x_hat = A (x + eps) + b: the error grows by |A|^2 on average.
    matrix = model.encoder.get_weights()[0] @ model.decoder.get_weights()[0]
    assert np.mean(noisy - clean) == pytest.approx((matrix**2).sum(), rel=0.35)


def test_a_composed_autoencoder_saves_and_loads(tmp_path):
    model = linear(
        corruption=GaussianNoise(0.5), penalties=[TargetRate(0.1, 1.0)], error="absolute"
    )
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert again.corruption == model.corruption
    assert again.penalties == model.penalties
    np.testing.assert_array_equal(again.reconstruct(X), model.reconstruct(X))
    model.save_to_preset(tmp_path / "preset", "float32")
    preset = kgen.from_preset(tmp_path / "preset")
    np.testing.assert_array_equal(preset.reconstruct(X), model.reconstruct(X))
