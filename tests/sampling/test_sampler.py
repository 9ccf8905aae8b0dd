"""A run from noise to examples: seeds, trajectories, previews, and an end before the end."""

import numpy as np
import pytest
import tensorflow as tf
from exact import exact

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, time_grid
from kgen.sampling.plan import Plan
from kgen.sampling.sampler import Guided, Sampler, example_seeds
from kgen.solvers import DDIM, AnnealedLangevin, DPMSolver, EulerMaruyama, Heun, solve

PROCESS = GaussianDiffusion(CosineLogSNR(6.0, -6.0))
DETERMINISTIC = [DDIM(), Heun(), DPMSolver(3)]
STOCHASTIC = [DDIM(eta=1.0), DPMSolver(2, sde=True), EulerMaruyama(), AnnealedLangevin(2)]
every_solver = pytest.mark.parametrize("solver", [*DETERMINISTIC, *STOCHASTIC], ids=repr)


@pytest.fixture(scope="module")
def model(gaussian_data):
    return exact(gaussian_data, PROCESS)


@every_solver
def test_an_example_can_be_drawn_again_alone_from_its_seed(model, solver):
    options = {"num_steps": 5, "solver": solver}
    together = model.generate(num_samples=4, seed=[3, 8, 3, 11], **options)
    np.testing.assert_array_equal(together[0], together[2])
    assert np.abs(together[0] - together[1]).max() > 0.01
    for i, seed in ((1, 8), (3, 11)):
        alone = model.generate(num_samples=1, seed=[seed], **options)
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)
        # The first example of a seed is that of its index 0.
        np.testing.assert_allclose(
            model.generate(num_samples=1, seed=seed, **options)[0], together[i], atol=1e-5
        )


@every_solver
def test_an_example_does_not_depend_on_the_size_of_the_batch(model, solver):
    options = {"num_steps": 5, "solver": solver, "seed": 4}
    whole = model.generate(num_samples=5, **options)
    parts = model.generate(num_samples=5, batch_size=2, **options)
    fewer = model.generate(num_samples=2, **options)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_allclose(fewer, whole[:2], atol=1e-5)
    assert len(np.unique(whole[:, 0])) == 5


def test_the_noise_of_the_steps_is_not_that_of_the_start():
    """Nor that of another example, of the same seed or of another."""
    seeds, indices = tf.constant([[1, 2], [1, 2], [3, 4]]), tf.constant([0, 1, 1])
    starts, steps = example_seeds(seeds, indices)
    assert starts.shape == steps.shape == (3, 2)
    pairs = {tuple(pair) for pair in np.concatenate([starts, steps]).tolist()}
    assert len(pairs) == 6


def test_samples_of_different_seeds_are_those_of_the_data(model, gaussian_data):
    """One seed for each of many: their noise is as independent as that of one seed."""
    x = model.generate(num_samples=2000, seed=list(range(2000)), num_steps=20, batch_size=2000)
    np.testing.assert_allclose(x.mean(0), gaussian_data.mean, atol=0.12)
    np.testing.assert_allclose(x.std(0), gaussian_data.std, rtol=0.08)


@pytest.mark.parametrize("solver", [DDIM(), DPMSolver(2), DDIM(eta=1.0)], ids=repr)
def test_a_trajectory_ends_in_the_result(model, solver):
    options = {"num_steps": 6, "solver": solver, "seed": 1, "batch_size": 2}
    path = model.generate(num_samples=3, trajectory=True, **options)
    assert path.shape == (3, 6, 2)
    np.testing.assert_allclose(path[:, -1], model.generate(num_samples=3, **options), atol=1e-6)
    assert (np.abs(np.diff(path, axis=1)).max((0, 2)) > 1e-4).all()


def test_a_trajectory_holds_the_estimate_after_each_step(model, gaussian_data):
    """Of DDIM by hand: x_hat at z_t, one time after another."""
    noise = np.random.default_rng(0).normal(size=(3, 2)).astype("float32")
    options = {"num_steps": 4, "solver": DDIM(), "noise": noise}
    path = model.generate(num_samples=3, trajectory=True, **options)
    times, denoise = time_grid(PROCESS, 4), gaussian_data.denoise(PROCESS)
    for step in range(4):
        z = solve(DDIM(), denoise, PROCESS, tf.constant(noise), times[: step + 2])
        np.testing.assert_allclose(path[:, step], denoise(z, times[step + 1]), atol=1e-3)


def test_somebody_may_watch(model):
    seen = []

    def on_step(step, num_steps, preview):
        seen.append((step, num_steps, preview()))

    options = {"num_steps": 3, "seed": 1, "batch_size": 2}
    x = model.generate(num_samples=3, on_step=on_step, **options)
    path = model.generate(num_samples=3, trajectory=True, **options)
    assert [(step, num) for step, num, _ in seen] == [(1, 3), (2, 3), (3, 3)] * 2
    for number, (step, _, preview) in enumerate(seen):
        part = slice(0, 2) if number < 3 else slice(2, 3)
        np.testing.assert_allclose(preview, path[part, step - 1], atol=1e-6)
    np.testing.assert_allclose(x, path[:, -1], atol=1e-6)


def test_somebody_may_end_it(model):
    """Ctrl-C between two steps; the model draws as before afterwards."""
    steps = []

    def on_step(step, num_steps, preview):
        steps.append(step)
        if step == 2:
            raise KeyboardInterrupt

    expected = model.generate(num_samples=2, num_steps=5, seed=1)
    with pytest.raises(KeyboardInterrupt):
        model.generate(num_samples=2, num_steps=5, seed=1, on_step=on_step)
    assert steps == [1, 2]
    np.testing.assert_array_equal(model.generate(num_samples=2, num_steps=5, seed=1), expected)


def test_samples_that_are_not_finite_are_an_error():
    def broken(z, t, cond):
        return z * tf.constant(np.nan)

    sampler = Sampler(broken, PROCESS, (2,))
    guided = Guided(None, None, tf.constant(1.0), tf.range(3))
    with pytest.raises(tf.errors.InvalidArgumentError, match="The samples are not finite"):
        sampler.finish(None, None, tf.ones([3, 2]), tf.constant([0.0]), guided, {})


def test_a_run_that_begins_at_an_example_has_its_marginal(model):
    """z_s of x at strength s: mean alpha x and standard deviation sigma."""
    x = np.tile([[0.5, -1.0]], (20000, 1)).astype("float32")
    seeds, _ = tf.function(example_seeds)(tf.tile([[1, 2]], [20000, 1]), tf.range(20000))
    given = {"x": tf.constant(x), "strength": tf.constant(0.4)}
    z, times = model.sampler.begin(Plan(DDIM(), PROCESS), (2,), seeds, tf.constant(3), given)
    alpha, sigma = (v.numpy() for v in PROCESS.alpha_sigma(tf.constant(0.4)))
    np.testing.assert_allclose(z.numpy().mean(0), alpha * x[0], atol=4 * sigma / 20000**0.5)
    np.testing.assert_allclose(z.numpy().std(0), [sigma, sigma], rtol=0.03)
    assert times.shape == (4,)
    assert (float(times[0]), float(times[-1])) == (pytest.approx(0.4), 0.0)
