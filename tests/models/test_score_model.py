"""The score model: its losses against those of diffusion, learned scores against exact ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from exact import exact

import kgen
from kgen.conditioning import Labels
from kgen.diffusion import GaussianDiffusion, LearnedLogSNR, LinearLogSNR
from kgen.networks import TimeMLP
from kgen.solvers import AnnealedLangevin, PredictorCorrector

SEED = tf.constant([5, 6])


def small(scaling="vp", log_snr_max=6.0, log_snr_min=-4.0, **options):
    keras.utils.set_random_seed(0)
    process = GaussianDiffusion(LinearLogSNR(log_snr_max, log_snr_min), scaling)
    options = {"grey_levels": None, "seed": 0, "ema_decay": 0.99, **options}
    width = options.pop("width", 32)
    pooled = {"pooled": 4} if "conditioner" in options else {}
    return kgen.ScoreModel(TimeMLP(2, width=width, blocks=1, **pooled), process, **options)


@pytest.mark.parametrize("scaling", ["ve", pytest.param("sub_vp", marks=pytest.mark.slow)])
def test_learned_scores_are_those_of_the_data(scaling, gaussian_data):
    model = small(scaling)
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    x = gaussian_data.sample(4000).astype("float32")
    model.fit(x, epochs=15, batch_size=100, verbose=0)
    t = tf.constant(0.6)
    alpha, sigma = (v.numpy() for v in model.process.alpha_sigma(t))
    z = (alpha * x[:200] + sigma * np.random.default_rng(0).normal(size=(200, 2))).astype("float32")
    exact = gaussian_data.score(z, alpha, sigma)
    error = np.sqrt(np.mean((model.score(z, t) - exact) ** 2) / np.mean(exact**2))
    assert error < 0.2
    drawn = model.generate(num_samples=2000, num_steps=50, solver=PredictorCorrector(), seed=0)
    np.testing.assert_allclose(drawn.mean(0), gaussian_data.mean, atol=0.2)
    np.testing.assert_allclose(drawn.std(0), gaussian_data.std, rtol=0.2)


@pytest.mark.parametrize("objective", ["dsm", "implicit"])
def test_noise_levels_of_training_are_those_of_sampling(objective):
    """NCSN: ten levels from end to end, of which the chain visits all but the noisiest."""
    model = small("ve", levels=10, objective=objective)
    seen = []
    network = model.network.call

    def watch(z, log_snr, cond=None, training=False):
        tf.py_function(lambda level: seen.append(level.numpy()), [log_snr], [])
        return network(z, log_snr, cond, training)

    def levels():
        found = np.unique(np.round(np.concatenate([np.atleast_1d(v) for v in seen]), 3))
        seen.clear()
        return found

    model.network.call = watch
    model.loss_terms(tf.zeros([500, 2]), training=True, seed=SEED)
    expected = np.linspace(-4, 6, 10)
    np.testing.assert_allclose(levels(), expected, atol=1e-2)
    model.generate(num_samples=3, num_steps=9, solver=AnnealedLangevin(2), seed=0)
    np.testing.assert_allclose(levels(), expected[1:], atol=1e-2)


@pytest.mark.slow
def test_noise_levels_with_langevin_dynamics(gaussian_data):
    """The row of README, with fewer Langevin steps."""
    model = small("ve", levels=10, width=48)
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    x = gaussian_data.sample(4000).astype("float32")
    model.fit(x, epochs=15, batch_size=100, verbose=0)
    drawn = model.generate(num_samples=2000, num_steps=9, solver=AnnealedLangevin(40), seed=0)
    np.testing.assert_allclose(drawn.mean(0), gaussian_data.mean, atol=0.2)
    np.testing.assert_allclose(drawn.std(0), gaussian_data.std, rtol=0.15)


def test_the_bound_of_a_ladder_goes_from_level_to_level(gaussian_data):
    """Five levels are four steps: the terms are those of a diffusion model with T = 4."""
    process = GaussianDiffusion(LinearLogSNR(6.0, -4.0))
    x = tf.constant(gaussian_data.sample(6), tf.float32)
    kinds = ((kgen.ScoreModel, 5), (kgen.DiffusionModel, 4))
    models = [exact(gaussian_data, process, model=kind, levels=n) for kind, n in kinds]
    for name in ("reconstruction", "prior", "denoising"):
        one, other = (model.density_terms(x, None, SEED)[name] for model in models)
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("objective", ["implicit", "sliced", "sliced_vr"])
def test_scores_are_learned_without_a_target(objective, gaussian_data):
    model = small("vp", 1.0, -1.0, objective=objective)
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    x = gaussian_data.sample(6000).astype("float32")
    model.fit(x, epochs=15, batch_size=200, verbose=0)
    t = tf.constant(0.5)
    alpha, sigma = (v.numpy() for v in model.process.alpha_sigma(t))
    z = (alpha * x[:200] + sigma * np.random.default_rng(0).normal(size=(200, 2))).astype("float32")
    exact = gaussian_data.score(z, alpha, sigma)
    error = np.sqrt(np.mean((model.score(z, t) - exact) ** 2) / np.mean(exact**2))
    assert error < 0.3


def test_a_score_model_saves_exports_and_measures(gaussian_data, tmp_path):
    model = small(conditioner=Labels(3, 4))
    labels = np.array([0, 2], "int32")
    expected = model.generate(labels, num_steps=4, guidance_scale=2.0, seed=3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(
        again.generate(labels, num_steps=4, guidance_scale=2.0, seed=3), expected, atol=1e-5
    )
    kgen.export_saved_model(model, tmp_path / "export")
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    arguments = [tf.constant(v) for v in (labels, 4, 2.0)] + [tf.constant([3, 0])]
    np.testing.assert_allclose(loaded.generate(*arguments)["images"], expected, atol=1e-5)
    x = tf.constant(gaussian_data.sample(2), tf.float32)
    log_p = loaded.log_likelihood(x, tf.constant(labels), tf.constant([1, 0]))["log_likelihood"]
    exact = model.log_likelihood(x.numpy(), condition=labels, num_probes=2)
    # The untrained network outputs zero: its Jacobian is a multiple of the unit, any probe exact.
    np.testing.assert_allclose(log_p, exact, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(objective="denoising"), "`objective` must be one of"),
        (lambda: small(weighting="likelihood"), "`weighting` must be one of"),
        (lambda: small(prediction="noise"), "`prediction` must be one of"),
        (lambda: small(levels=0), "`levels` must be"),
        (lambda: small(levels=1), "`levels` must be in"),
        (lambda: small(cond_drop_rate=-0.1), "`cond_drop_rate` must be"),
        (
            lambda: kgen.ScoreModel(TimeMLP(2), GaussianDiffusion(LearnedLogSNR())),
            "A learned schedule needs a DiffusionModel",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
