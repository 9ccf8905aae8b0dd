import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.solvers import DormandPrince, solve
from kgen.solvers.dormand_prince import integrate


@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_error_follows_the_tolerance(scaling, mixture_data):
    """Against the exact flow, in one step of the grid."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)
    ends = [[v.numpy() for v in process.alpha_sigma(tf.constant(t, tf.float64))] for t in (1.0, 0)]
    z = tf.constant(np.random.default_rng(0).normal(size=(12, 2)) * np.hypot(*ends[0]))
    exact = mixture_data.flow(z, *ends)
    errors = []
    for tolerance in (1e-3, 1e-5, 1e-7):
        solver = DormandPrince(tolerance, tolerance)
        x = solve(solver, mixture_data.denoise(process), process, z, tf.constant([1.0, 0.0]))
        errors.append(np.abs(x - exact).max())
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < 0.1
    assert errors[2] < 1e-5


def test_integrates_a_rotation():
    """d(x, y)/dl = (-y, x) over a quarter of a turn, backwards too."""
    solver = DormandPrince(1e-9, 1e-9)
    one, zero = tf.ones([1], tf.float64), tf.zeros([1], tf.float64)

    def turn(_, state):
        return [-state[1], state[0]]

    quarter = tf.constant(np.pi / 2, tf.float64)
    (x, y), _ = integrate(turn, [one, zero], tf.zeros_like(quarter), quarter, solver)
    np.testing.assert_allclose([x[0], y[0]], [0, 1], atol=1e-7)
    (x, y), _ = integrate(turn, [x, y], quarter, tf.zeros_like(quarter), solver)
    np.testing.assert_allclose([x[0], y[0]], [1, 0], atol=1e-7)


def test_a_result_does_not_depend_on_the_other_examples():
    """A stiff companion, whose steps are short, changes nothing: not a bit of it."""
    rates = tf.constant([1.0, 300.0, 3.0])

    def ends(rates):
        def slope(at, state):
            return [-rates[:, None] * state[0] * tf.cos(at)[:, None]]

        ones = tf.ones([len(rates), 1])
        (y,), h = integrate(slope, [ones], tf.zeros([]), tf.ones([]), DormandPrince())
        return np.concatenate([y[:, 0], h])

    together, alone = ends(rates), [ends(rates[i : i + 1]) for i in range(3)]
    np.testing.assert_array_equal(together.reshape(2, 3).T, alone)
    exact = np.exp(-np.array([1.0, 3.0]) * np.sin(1.0))
    np.testing.assert_allclose(together[[0, 2]], exact, rtol=1e-4)


@pytest.mark.parametrize("in_graph", [False, True])
def test_too_few_steps_are_an_error(in_graph):
    solver = DormandPrince(1e-9, 1e-9, max_steps=3)

    def run():
        return integrate(
            lambda at, state: [-50 * state[0]], [tf.ones([1])], tf.zeros([]), tf.ones([]), solver
        )

    with pytest.raises(tf.errors.InvalidArgumentError, match="`max_steps` must be more than 3"):
        (tf.function(run) if in_graph else run)()


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("where", [0.0, 0.34])
def test_nan_stops_at_once_and_says_so(where, in_graph):
    """From some place on the slope is no number; it takes no thousand steps to notice."""
    calls = []

    def slope(at, state):
        tf.py_function(lambda: calls.append(1), [], [])
        return [tf.where(at >= where, float("nan"), -state[0])]

    def run():
        return integrate(slope, [tf.ones([1])], tf.zeros([]), tf.ones([]), DormandPrince())

    with pytest.raises(tf.errors.InvalidArgumentError, match="not finite"):
        (tf.function(run) if in_graph else run)()
    assert len(calls) < (2 if where == 0 else 400)


def test_a_step_without_a_finite_result_is_made_shorter():
    """dy/dl = -100 y as the square of a root, which the stages of too long a step do not have."""

    def slope(at, state):
        return [-100.0 * tf.sqrt(state[0]) ** 2]

    (y,), _ = integrate(slope, [tf.ones([1])], tf.zeros([]), tf.constant(0.1), DormandPrince())
    np.testing.assert_allclose(y, np.exp(-10), rtol=0.05)


def test_a_grid_costs_no_more_than_its_times(mixture_data):
    """The length of a step is known from the one before, also where the grid cut that short."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0))
    denoise, calls = mixture_data.denoise(process), []
    z = tf.constant(np.random.default_rng(0).normal(size=(12, 2)))

    def count(times):
        calls.clear()
        solve(DormandPrince(1e-5, 1e-5), counted, process, z, tf.constant(times, tf.float64))
        return len(calls)

    def counted(z, t):
        calls.append(1)
        return denoise(z, t)

    plain = count([1.0, 0.5, 0.0])
    # One step of six slopes and the first of them, and what is left of the step that it cut.
    assert plain < count([1.0, 0.5, 0.4999, 0.0]) <= plain + 7 + 6
    assert count(np.linspace(1.0, 0.0, 41)) <= 40 * 7 + 30
