"""What a solver is, and the one loop that runs it.

The process and any denoiser define a path from noise to data, the probability flow. In the
coordinates lambda = l / 2 = log(alpha / sigma) it reads, for every scaling (Lu et al., eq. 8),

    z_s = (sigma_s / sigma_t) z_t
        + sigma_s * integral from lambda_t to lambda_s of exp(lambda) x_hat dlambda

A solver is a rule for one step from t to s given a denoiser, and some memory of earlier steps. All
else is here: `solve` walks along any monotone grid of times, of any length, in one `tf.while_loop`,
so that one compiled function serves every number of steps. What a multistep rule remembers are loop
variables of fixed shape; it takes its coefficients from the index of the step.

Going up the grid (data to noise) inverts a deterministic solver up to its error.

References:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 13 (the probability flow).
  Lu et al. (2022), https://arxiv.org/abs/2211.01095, eq. 8 (its solution in data prediction).
"""

import abc
import dataclasses

import tensorflow as tf

from kgen.checks import check_one_of
from kgen.diffusion.times import TIME_GRIDS
from kgen.tensors import as_seed, fold_in


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(abc.ABC):
    """A rule for one step along the path. Solvers are frozen dataclasses.

    A solver has an integer `order`, the power of the step with which the error falls; of stochastic
    solvers that of means and variances. None is no order.

    Args:
        grid: `"log_snr"`, `"t"` or `"karras"`: in what the steps that `generate` makes are
            equidistant, see `kgen.diffusion.time_grid`. An argument of every solver.

    Raises:
        ValueError: if `grid` is none of these.
    """

    grid: str = "log_snr"

    stochastic = False

    def __post_init__(self):
        check_one_of("grid", self.grid, TIME_GRIDS)

    @abc.abstractmethod
    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Makes one step.

        Args:
            denoise: a function of `z` and `t` that returns `x_hat`. `t` is a scalar; of
                `DormandPrince`, whose examples have steps of their own, `[B, 1, ...]`.
            process: a `GaussianDiffusion`.
            z: state at time `t`, `[B, ...]`.
            t: time of the state, scalar.
            s: time to go to, scalar.
            index: number of steps made before, int32 scalar.
            memory: what the previous step returned, at first `initial_memory(z)`.
            seed: an int32 pair, another one at every step, or such a pair for each example,
                `[B, 2]` (`kgen.tensors.normal` takes both); None if the solver is not stochastic.

        Returns:
            The state at time `s` and the new memory, of unchanged shapes and dtypes.
        """

    @abc.abstractmethod
    def nfe(self, num_steps):
        """Returns the number of calls of `denoise` that `num_steps` steps cost."""

    def initial_memory(self, z):
        """Returns the memory before the first step: tensors of fixed shape, empty by default."""
        return ()


def advance(solver, denoise, process, z, memory, times, first, last, seed=None):
    """Makes the steps `first` to `last - 1` of a path: the one loop of all solvers.

    Args:
        solver: a `Solver`.
        denoise: a function of `z` `[B, ...]` and a scalar `t` that returns `x_hat` `[B, ...]`.
        process: a `GaussianDiffusion`.
        z: state at `times[first]`, `[B, ...]`.
        memory: what the step before returned; before the first, `solver.initial_memory(z)`.
        times: monotone, `[num_steps + 1]`.
        first: index of the first step, an int32 scalar.
        last: index after that of the last step, an int32 scalar.
        seed: an int32 pair, or one for each example, `[B, 2]`; for stochastic solvers.

    Returns:
        The state at `times[last]`, and the memory.
    """

    def body(index, z, memory):
        step_seed = fold_in(seed, index) if solver.stochastic else None
        new = solver.step(
            denoise, process, z, times[index], times[index + 1], index, memory, step_seed
        )
        z, memory = tf.nest.map_structure(
            lambda value, old: tf.ensure_shape(value, old.shape), new, (z, memory)
        )
        return index + 1, z, memory

    _, z, memory = tf.while_loop(
        lambda index, z, memory: index < last, body, (tf.convert_to_tensor(first), z, memory)
    )
    return z, memory


def solve(solver, denoise, process, z, times, seed=None):
    """Follows the path of a denoiser from `times[0]` to `times[-1]`.

    Args:
        solver: a `Solver`.
        denoise: a `Denoiser`, or a function of `z` `[B, ...]` and a scalar `t` (of `DormandPrince`
            `[B, 1, ...]`) that returns `x_hat` `[B, ...]`.
        process: a `GaussianDiffusion`; None for that of a `Denoiser`.
        z: state at `times[0]`, `[B, ...]`. Half precision is promoted to float32, float64 stays.
        times: monotone, `[num_steps + 1]`, of static or dynamic length; decreasing toward
            the data.
        seed: an int32 pair, or one for each example, `[B, 2]`; for stochastic solvers.

    Returns:
        The state at `times[-1]`, `[B, ...]`.

    Raises:
        TypeError: if `solver` is not a `Solver`, or `process` is None and `denoise` has none.
        ValueError: if `times` is not 1-D or (outside of a compiled function) not monotone,
            if `z` is not finite, or if a stochastic solver is traced without a seed, since
            a fresh one would be frozen into the graph.

    Example:
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR, time_grid
        >>> from kgen.solvers import DDIM
        >>> process = GaussianDiffusion(LinearLogSNR(10.0, -10.0))
        >>> z = solve(DDIM(), lambda z, t: 0.5 * tf.ones_like(z), process, tf.zeros([2, 3]),
        ...           time_grid(process, 10))
        >>> float(tf.reduce_max(tf.abs(z - 0.5))) < 0.01
        True
    """
    if not isinstance(solver, Solver):
        raise TypeError(f"`solver` must be a Solver. Received: solver={solver!r}.")
    process = process_of(denoise, process)
    z = tf.convert_to_tensor(z)
    z = tf.cast(z, tf.float32) if z.dtype.size < 4 else z
    times = tf.cast(times, z.dtype) if tf.is_tensor(times) else tf.convert_to_tensor(times, z.dtype)
    if times.shape.rank != 1:
        raise ValueError(f"`times` must have shape [num_steps + 1]. Received: shape={times.shape}.")
    if not tf.inside_function():
        _check_values(z, times)
    if solver.stochastic:
        if seed is None and tf.inside_function():
            raise ValueError(f"`seed` must be given to {solver!r} inside a tf.function.")
        many = tf.is_tensor(seed) and seed.shape.rank == 2
        seed = seed if many else as_seed(seed)
    num_steps = tf.shape(times)[0] - 1
    memory = solver.initial_memory(z)
    z, _ = advance(solver, denoise, process, z, memory, times, tf.constant(0), num_steps, seed)
    return z


def process_of(denoise, process=None):
    """Returns `process`, or where that is None the process of a `Denoiser`.

    Raises:
        TypeError: if there is neither.
    """
    process = getattr(denoise, "process", None) if process is None else process
    if process is None:
        raise TypeError("`process` must be a GaussianDiffusion unless `denoise` is a Denoiser.")
    return process


def _check_values(z, times):
    if not bool(tf.reduce_all(tf.math.is_finite(z))):
        raise ValueError("`z` must be finite. Received: NaN or infinite values.")
    steps = times[1:] - times[:-1]
    if not bool(tf.reduce_all(steps <= 0) | tf.reduce_all(steps >= 0)):
        raise ValueError(f"`times` must be monotone. Received: times={times.numpy()}.")
