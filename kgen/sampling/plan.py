"""Plans: the times of a sampling run, its first state, and the result of its last state.

The default plan makes N solver steps along the grid of the solver, from t = 1 (or from the
`strength` of image to image) to t = 0, and returns the estimate x_hat there. A solver with one call
of the network per step makes N + 1 calls in all. A solver whose steps end at the data
(`Consistency`) makes N calls. Models that were opened from published weights
have other plans, which use the times of the published samplers (`kgen.published.schedulers`).
"""

import dataclasses
from typing import Any

import tensorflow as tf

from kgen import solvers
from kgen.checks import check_count
from kgen.diffusion import GaussianDiffusion, time_grid
from kgen.solvers import Solver
from kgen.types import Denoise, SolverName, TensorLike

METHODS = ("check", "times", "start", "from_noise", "finish")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The default plan: N steps of a solver, then the estimate x_hat.

    Other plans have the same attribute `solver` and the same methods.

    Args:
        solver: a `Solver`.
        process: a `GaussianDiffusion`.

    Example:
        >>> from kgen.diffusion import LinearLogSNR
        >>> plan = Plan(solvers.DDIM(), GaussianDiffusion(LinearLogSNR()))
        >>> plan.times(2).numpy().tolist()
        [1.0, 0.5, 0.0]
    """

    solver: Solver
    process: GaussianDiffusion

    def check(self, num_steps: int) -> None:
        """Checks a number of steps, outside of a graph.

        Raises:
            TypeError: if `num_steps` is not a number.
            ValueError: if `num_steps` is not an integer of at least 1.
        """
        check_count("num_steps", num_steps)

    def times(self, num_steps: int | tf.Tensor, strength: TensorLike | None = None) -> tf.Tensor:
        """Returns the decreasing times of the run, `[num_steps + 1]`.

        Args:
            num_steps: an integer or an int32 scalar tensor.
            strength: None; or, for image to image, the first time, in (0, 1].
        """
        start = 1.0 if strength is None else strength
        return time_grid(self.process, num_steps, self.solver.grid, start=start)

    def start(self, noise: tf.Tensor, times: tf.Tensor, x: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the first state.

        Args:
            noise: standard normal noise, `[B, ...]`.
            times: the times of the run.
            x: None; or, for image to image, the given examples, `[B, ...]`.
        """
        z = self.process.prior(noise).std * noise
        if x is None:
            return z
        alpha, sigma = self.process.alpha_sigma(times[0])
        # At t = 1 the first state does not depend on x.
        return tf.where(times[0] < 1, alpha * x + sigma * noise, z)

    def from_noise(self, noise: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        """Returns `noise`, the first state if the argument `noise` of `generate` is given."""
        return noise

    def finish(self, denoise: Denoise, z: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        """Returns the examples that belong to the last state `z`, `[B, ...]`."""
        return z if self.solver.ends_at_data else denoise(z, times[-1])


def plan_of(solver: SolverName | Solver | Any, process: GaussianDiffusion) -> Plan:
    """Returns the plan for a solver.

    Args:
        solver: a `Solver`, a name in `kgen.solvers.SOLVERS`, or a plan, which is returned.
        process: a `GaussianDiffusion`.

    Raises:
        ValueError: for anything else.
    """
    if all(callable(getattr(solver, name, None)) for name in METHODS):
        return solver
    return Plan(solvers.get(solver), process)
