import numpy as np
import pytest
import tensorflow as tf

from kgen import solvers
from kgen.diffusion import CosineLogSNR, Denoiser, GaussianDiffusion, LinearBeta, time_grid
from kgen.sampling import editing
from kgen.solvers import (
    DDIM,
    PNDM,
    AnnealedLangevin,
    Consistency,
    DPMSolver,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    UniPC,
    solve,
)
from kgen.solvers.solver import advance

SCALINGS = ["vp", "ve", "sub_vp", "flow"]
DETERMINISTIC = [
    *[DDIM(), Heun(), DPMSolver(1), DPMSolver(2), DPMSolver(3), UniPC(1), UniPC(2), PNDM()],
    PNDM("v"),
]
STOCHASTIC = [
    DDIM(eta=1.0),
    DPMSolver(2, sde=True),
    Heun(churn=0.2),
    EulerMaruyama(),
    PredictorCorrector(),
    AnnealedLangevin(2),
    Consistency(),
]
every_scaling = pytest.mark.parametrize("scaling", SCALINGS)
every_solver = pytest.mark.parametrize("solver", [*DETERMINISTIC, *STOCHASTIC], ids=repr)
deterministic = pytest.mark.parametrize("solver", DETERMINISTIC, ids=repr)


def ends(process, dtype=tf.float64):
    """The pairs (alpha, sigma) at t = 1 and t = 0."""
    return [[v.numpy() for v in process.alpha_sigma(tf.constant(t, dtype))] for t in (1.0, 0.0)]


def start(process, dtype="float64"):
    """Twelve points where the noise of a 2-D distribution is, at t = 1."""
    noise = np.random.default_rng(0).normal(size=(12, 2))
    return tf.constant(noise * np.hypot(*ends(process)[0]), dtype)


@every_scaling
@deterministic
def test_error_falls_with_the_declared_order(solver, scaling, mixture_data):
    """Measured at t_min against the exact flow, on grids uniform in log-SNR."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)
    z, denoise = start(process), mixture_data.denoise(process)
    exact = mixture_data.flow(z, *ends(process))

    @tf.function
    def final(num_steps):
        return solve(solver, denoise, process, z, time_grid(process, num_steps, dtype=z.dtype))

    steps = np.array([64, 128, 256, 512])
    errors = [np.sqrt(np.mean((final(tf.constant(n)) - exact) ** 2)) for n in steps]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(order - solver.order) < 0.2


@deterministic
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_path_is_the_same_in_every_scaling(solver, num_steps, mixture_data):
    """In units of the signal, z / alpha, from the same noise at the same log-SNRs."""
    results = []
    for scaling in SCALINGS:
        process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)
        times = time_grid(process, num_steps, dtype="float64")
        (alpha_1, _), (alpha_0, _) = ends(process)
        z = alpha_1 * start(GaussianDiffusion(CosineLogSNR(6.0, -6.0), "ve"))
        results.append(solve(solver, mixture_data.denoise(process), process, z, times) / alpha_0)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-8, atol=1e-10)


@every_solver
@pytest.mark.parametrize("num_steps", [1, 2, 9])
def test_calls_are_counted(solver, num_steps, gaussian_data):
    process = GaussianDiffusion(CosineLogSNR())
    exact, calls = gaussian_data.denoise(process), []

    def denoise(z, t):
        calls.append(t)
        return exact(z, t)

    solve(solver, denoise, process, tf.ones([1, 2]), time_grid(process, num_steps), seed=[0, 1])
    assert len(calls) == solver.nfe(num_steps)


@every_solver
def test_calls_are_counted_in_a_graph(solver, gaussian_data):
    """What runs is counted, not what is traced: a branch not taken costs nothing."""
    process = GaussianDiffusion(CosineLogSNR())
    exact, calls = gaussian_data.denoise(process), tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def run(num_steps):
        def denoise(z, t):
            calls.assign_add(1)
            return exact(z, t)

        times = time_grid(process, num_steps)
        return solve(solver, denoise, process, tf.ones([1, 2]), times, seed=[0, 1])

    for num_steps in (1, 6):
        calls.assign(0)
        run(tf.constant(num_steps))
        assert calls.numpy() == solver.nfe(num_steps)


@every_solver
def test_one_trace_serves_every_number_of_steps(solver, mixture_data):
    """The graph gives what eager execution gives, for 1, 2, 50 steps and 2 again."""
    process = GaussianDiffusion(LinearBeta(), "vp")
    denoise, z = mixture_data.denoise(process), start(process, "float32")
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None, 2]), tf.TensorSpec([], tf.int32)])
    def run(z, num_steps):
        traces.append(1)
        return solve(solver, denoise, process, z, time_grid(process, num_steps), seed=[3, 4])

    results = []
    for num_steps in (1, 2, 50, 2):
        results.append(run(z, num_steps))
        times = time_grid(process, num_steps)
        eager = solve(solver, denoise, process, z, times, seed=[3, 4])
        # Step sizes that depend on the state carry rounding errors further.
        tolerance = 5e-3 if isinstance(solver, PredictorCorrector) else 2e-4
        np.testing.assert_allclose(results[-1], eager, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(results[1], results[3])
    assert np.abs(results[1] - results[2]).max() > 0.01
    assert len(traces) == 1


@deterministic
def test_two_numbers_of_steps_in_a_row_both_arrive(solver, gaussian_data):
    """At 60 and 240 steps in one trace the second is nearer the exact flow by its order."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), "flow")
    z = start(process)
    exact = gaussian_data.flow(z, *ends(process))

    @tf.function
    def run(times):
        return solve(solver, gaussian_data.denoise(process), process, z, times)

    coarse, fine = (
        np.abs(run(time_grid(process, num_steps, dtype="float64")) - exact).max()
        for num_steps in (60, 240)
    )
    assert coarse < {1: 0.1, 2: 0.01, 3: 0.001}[solver.order]
    assert coarse > 0.8 * 4**solver.order * fine


@deterministic
def test_increasing_grid_inverts(solver, mixture_data):
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), "vp")
    denoise = mixture_data.denoise(process)
    x = tf.constant(mixture_data.sample(8))
    noise_level, data_level = ends(process)
    times = time_grid(process, 200, dtype="float64")[::-1]
    walk = tf.function(lambda z, times: solve(solver, denoise, process, z, times))
    noise = walk(x, times)
    tolerance = 0.1 if solver.order == 1 else 0.003
    exact = mixture_data.flow(x, data_level, noise_level)
    np.testing.assert_allclose(noise, exact, atol=tolerance)
    back = walk(noise, times[::-1])
    np.testing.assert_allclose(back, x, atol=tolerance)


@deterministic
@pytest.mark.parametrize("kind", ["t", "karras"])
def test_other_grids(solver, kind, gaussian_data):
    """Samples of the process' prior arrive with the moments of the data."""
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0), "ve")
    z = process.prior([4000, 2]).sample([1, 2])
    times = time_grid(process, 60, kind=kind)
    x = solve(solver, gaussian_data.denoise(process), process, z, times).numpy()
    np.testing.assert_allclose(x.mean(0), gaussian_data.mean, atol=0.1)
    np.testing.assert_allclose(x.std(0), gaussian_data.std, rtol=0.1)


@pytest.mark.parametrize("kind", ["log_snr", "t", "karras"])
def test_inversion_walks_the_grid_of_the_solver(kind, gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0))
    exact, seen = gaussian_data.denoise(process), []

    def denoise(z, t):
        seen.append(float(t))
        return exact(z, t)

    editing.invert(DDIM(grid=kind), denoise, process, tf.ones([1, 2]), 5)
    coordinate = {
        "t": lambda t: t,
        "log_snr": lambda t: process.log_snr(tf.constant(t)).numpy(),
        "karras": lambda t: np.exp(-process.log_snr(tf.constant(t)).numpy() / 14),
    }[kind]
    steps = np.diff([coordinate(t) for t in [*seen, 1.0]])
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-3)


@pytest.mark.parametrize("solver_class", list(solvers.SOLVERS.values()))
def test_every_solver_takes_a_grid_and_refuses_an_unknown_one(solver_class):
    assert solver_class(grid="karras").grid == "karras"
    assert solver_class(grid="karras") != solver_class()
    with pytest.raises(ValueError, match="`grid` must be one of"):
        solver_class(grid="linear")


@every_solver
@pytest.mark.parametrize(
    ("dtype", "state"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_state_is_at_least_float32(solver, dtype, state, gaussian_data):
    process = GaussianDiffusion(CosineLogSNR())
    exact, seen = gaussian_data.denoise(process), set()

    def denoise(z, t):
        seen.add(z.dtype.name)
        return exact(z, t)

    z = tf.ones([2, 2], dtype)
    result = solve(solver, denoise, process, z, time_grid(process, 3), seed=[0, 1])
    assert result.dtype == state
    assert seen == {state}
    assert np.isfinite(result).all()


@deterministic
def test_compiles_with_xla(solver, gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0))
    times, z = time_grid(process, 4), start(process, "float32")

    def run(z, times):
        return solve(solver, gaussian_data.denoise(process), process, z, times)

    compiled = tf.function(run, jit_compile=True)(z, times)
    np.testing.assert_allclose(compiled, run(z, times), rtol=1e-3, atol=1e-4)


@every_solver
def test_a_path_in_pieces_is_the_path(solver, mixture_data):
    """The memory of multistep solvers and the noise of stochastic ones go on where they were."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0))
    denoise, times = mixture_data.denoise(process), time_grid(process, 7, dtype="float64")
    z, seed = start(process), tf.constant([3, 4])
    whole = solve(solver, denoise, process, z, times, seed)
    memory = solver.initial_memory(z)
    for first, last in ((0, 1), (1, 5), (5, 5), (5, 7)):
        arguments = (solver, denoise, process, z, memory, times, tf.constant(first))
        z, memory = advance(*arguments, tf.constant(last), seed)
    np.testing.assert_allclose(z, whole, rtol=1e-12)


@pytest.mark.parametrize(
    "solver", [s for s in STOCHASTIC if not isinstance(s, PredictorCorrector)], ids=repr
)
def test_an_example_with_a_seed_of_its_own_does_not_depend_on_others(solver, mixture_data):
    """Not of the predictor-corrector, whose published step size is that of the whole batch."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0))
    denoise, times = mixture_data.denoise(process), time_grid(process, 5, dtype="float64")
    z, seeds = tf.tile(start(process)[:1], [4, 1]), tf.constant([[1, 2], [3, 4], [1, 2], [5, 6]])
    together = solve(solver, denoise, process, z, times, seeds).numpy()
    for i in range(4):
        part = slice(i, i + 1)
        alone = solve(solver, denoise, process, z[part], times, seeds[part])
        np.testing.assert_allclose(together[part], alone, rtol=1e-9)
    np.testing.assert_array_equal(together[0], together[2])
    assert np.abs(together[0] - together[1]).max() > 0.01
    assert np.abs(together[0] - together[3]).max() > 0.01


def test_a_denoiser_brings_its_process():
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), "flow")
    denoiser = Denoiser(lambda z, log_snr, cond, training: 0.3 * z, process, "x")
    z, times = start(process), time_grid(process, 5, dtype="float64")
    expected = solve(DDIM(), lambda z, t: denoiser(z, t), process, z, times)
    np.testing.assert_array_equal(solve(DDIM(), denoiser, None, z, times), expected)
    with pytest.raises(TypeError, match="`process` must be a GaussianDiffusion unless"):
        solve(DDIM(), lambda z, t: z, None, z, times)


def test_solvers_by_name():
    assert solvers.get("ddim") == DDIM()
    assert solvers.get("heun") == Heun()
    assert solvers.get("dpm") == DPMSolver(order=2)
    assert solvers.get(DPMSolver(3)) == DPMSolver(3)
    for wrong in ("euler", 3, None):
        with pytest.raises(ValueError, match=r"`solver` must be a Solver or one of \['cons"):
            solvers.get(wrong)


def test_wrong_arguments(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR())
    arguments = gaussian_data.denoise(process), process, tf.zeros([2, 2])
    with pytest.raises(TypeError, match="`solver` must be a Solver"):
        solve("ddim", *arguments, time_grid(process, 3))
    with pytest.raises(ValueError, match="`times` must have shape"):
        solve(DDIM(), *arguments, 0.5)
    with pytest.raises(ValueError, match="`seed` must be given"):
        tf.function(solve)(DDIM(eta=0.5), *arguments, time_grid(process, 3))
