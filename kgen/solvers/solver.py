"""The interface of solvers, and the loop that runs them.

The process and any denoiser define a path from noise to data, the probability flow. In the
coordinates lambda = l / 2 = log(alpha / sigma) it reads, for every scaling (Lu et al., eq. 8),

    z_s = (sigma_s / sigma_t) z_t
        + sigma_s * integral from lambda_t to lambda_s of exp(lambda) x_hat dlambda

A solver defines one step from t to s, given a denoiser and a memory of earlier steps. `solve`
applies it along a monotone grid of times in one `tf.while_loop`, so that one compiled function
serves every number of steps. The memory of a multistep method is a loop variable of fixed shape.

An increasing grid (from data to noise) inverts a deterministic solver, up to its error.

References:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 13 (the probability flow).
  Lu et al. (2022), https://arxiv.org/abs/2211.01095, eq. 8 (its solution in data prediction).
"""

import abc
import dataclasses

import tensorflow as tf

from kgen.checks import check_one_of
from kgen.diffusion.process import GaussianDiffusion
from kgen.diffusion.times import TIME_GRIDS
from kgen.tensors import as_seed, fold_in
from kgen.types import Denoise, Memory, Seed, TensorLike, TimeGrid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solver(abc.ABC):
    """Abstract base of solvers, which define one step of the integration.

    A subclass is a frozen dataclass that defines `step`, `nfe` and an attribute or property
    `order`: the power of the step size with which the error decreases (for stochastic solvers that
    of means and variances), or None if there is none.

    Args:
        grid: coordinate in which the steps of `generate` are equally spaced, `"log_snr"`, `"t"` or
            `"karras"`; see `kgen.diffusion.time_grid`. An argument of every solver.

    Attributes:
        stochastic: whether steps draw noise.
        ends_at_data: whether the state at t = 0 is the result of `generate`, which otherwise is
            the estimate x_hat there, for one more call of `denoise`.

    Raises:
        ValueError: for another `grid`.
    """

    grid: TimeGrid = "log_snr"

    stochastic = False
    ends_at_data = False

    def __post_init__(self) -> None:
        check_one_of("grid", self.grid, TIME_GRIDS)

    @abc.abstractmethod
    def step(
        self,
        denoise: Denoise,
        process: GaussianDiffusion,
        z: tf.Tensor,
        t: tf.Tensor,
        s: tf.Tensor,
        index: tf.Tensor,
        memory: Memory,
        seed: tf.Tensor | None,
    ) -> tuple[tf.Tensor, Memory]:
        """Makes one step.

        Args:
            denoise: a function of `z` and `t` that returns `x_hat`. `t` is a scalar; of
                `DormandPrince`, whose examples have steps of their own, `[B, 1, ...]`.
            process: a `GaussianDiffusion`.
            z: state at time `t`, `[B, ...]`.
            t: time of the state, scalar.
            s: time to go to, scalar.
            index: number of steps made before, int32 scalar.
            memory: the memory that the previous step returned, at first `initial_memory(z)`.
            seed: an int32 pair, different at every step; or a pair per example, `[B, 2]`
                (`kgen.tensors.normal` accepts both); None if the solver is not stochastic.

        Returns:
            The state at time `s` and the new memory, of unchanged shapes and dtypes.
        """

    @abc.abstractmethod
    def nfe(self, num_steps: int) -> int | None:
        """Returns the number of calls of `denoise` in `num_steps` steps; None if it varies."""

    def initial_memory(self, z: tf.Tensor) -> Memory:
        """Returns the memory before the first step: tensors of fixed shape, empty by default."""
        return ()


def advance(
    solver: Solver,
    denoise: Denoise,
    process: GaussianDiffusion,
    z: tf.Tensor,
    memory: Memory,
    times: tf.Tensor,
    first: tf.Tensor,
    last: tf.Tensor,
    seed: tf.Tensor | None = None,
) -> tuple[tf.Tensor, Memory]:
    """Makes the steps `first` to `last - 1` of a grid, in one loop.

    Args:
        solver: a `Solver`.
        denoise: a function of `z` `[B, ...]` and a scalar `t` that returns `x_hat` `[B, ...]`.
        process: a `GaussianDiffusion`.
        z: state at `times[first]`, `[B, ...]`.
        memory: the memory after the previous step; at first `solver.initial_memory(z)`.
        times: monotone, `[num_steps + 1]`.
        first: index of the first step, an int32 scalar.
        last: index after that of the last step, an int32 scalar.
        seed: an int32 pair, or one for each example, `[B, 2]`; for stochastic solvers.

    Returns:
        The state at `times[last]`, and the memory.
    """

    def body(index: tf.Tensor, z: tf.Tensor, memory: Memory) -> tuple[tf.Tensor, tf.Tensor, Memory]:
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


def solve(
    solver: Solver,
    denoise: Denoise,
    process: GaussianDiffusion | None,
    z: TensorLike,
    times: TensorLike,
    seed: Seed = None,
) -> tf.Tensor:
    """Integrates from `times[0]` to `times[-1]` with a denoiser.

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
        ValueError: if `times` is not 1-D; if `times` is not monotone or `z` not finite (checked
            outside of compiled functions only); or if a stochastic solver is traced without a seed,
            since a random seed would be frozen into the graph.

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


def process_of(denoise: object, process: GaussianDiffusion | None = None) -> GaussianDiffusion:
    """Returns `process`, or the process of a `Denoiser` if it is None.

    Raises:
        TypeError: if `process` is None and `denoise` is not a `Denoiser`.
    """
    process = getattr(denoise, "process", None) if process is None else process
    if process is None:
        raise TypeError("`process` must be a GaussianDiffusion unless `denoise` is a Denoiser.")
    return process


def _check_values(z: tf.Tensor, times: tf.Tensor) -> None:
    if not bool(tf.reduce_all(tf.math.is_finite(z))):
        raise ValueError("`z` must be finite. Received: NaN or infinite values.")
    steps = times[1:] - times[:-1]
    if not bool(tf.reduce_all(steps <= 0) | tf.reduce_all(steps >= 0)):
        raise ValueError(f"`times` must be monotone. Received: times={times.numpy()}.")
