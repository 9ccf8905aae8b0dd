"""From how many steps to which: the times of a run, its first state, and what its last state means.

kgen's own plan makes N steps of a solver along its grid, from t = 1 (or from the `strength` of
image to image) to t = 0, and takes the estimate x_hat there, so that N steps are N + 1 evaluations
of a solver of one. Models that were opened from published weights have plans of their own, which
evaluate where the published samplers do (`kgen.published.schedulers`).
"""

import dataclasses

import tensorflow as tf

from kgen import solvers
from kgen.checks import check_count
from kgen.diffusion import GaussianDiffusion, time_grid
from kgen.solvers import Solver

METHODS = ("check", "times", "start", "from_noise", "finish")


@dataclasses.dataclass(frozen=True)
class Plan:
    """kgen's own plan: N steps of a solver, then x_hat.

    A plan of another kind has the same attribute `solver` and the same methods.

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

    def check(self, num_steps):
        """Checks a number of steps, outside of a graph.

        Raises:
            TypeError: if it is no integer.
            ValueError: if there is no such run.
        """
        check_count("num_steps", num_steps)

    def times(self, num_steps, strength=None):
        """Returns the times of the run, falling, `[num_steps + 1]`.

        Args:
            num_steps: an integer or an int32 scalar tensor.
            strength: None, or the time in (0, 1] at which to begin from an example.
        """
        start = 1.0 if strength is None else strength
        return time_grid(self.process, num_steps, self.solver.grid, start=start)

    def start(self, noise, times, x=None):
        """Returns the first state.

        Args:
            noise: standard normal, `[B, ...]`.
            times: what `times` returned.
            x: None, or what to begin from, `[B, ...]`.
        """
        z = self.process.prior(noise).std * noise
        if x is None:
            return z
        alpha, sigma = self.process.alpha_sigma(times[0])
        # At t = 1 there is nothing left of x to begin from.
        return tf.where(times[0] < 1, alpha * x + sigma * noise, z)

    def from_noise(self, noise, times):
        """Returns the first state where `noise` is given to `generate`: it is that state."""
        return noise

    def finish(self, denoise, z, times):
        """Returns what the state at the last time means, `[B, ...]`."""
        return denoise(z, times[-1])


def plan_of(solver, process):
    """Returns a plan for a solver, its name, or a plan.

    Args:
        solver: a `Solver`, a name in `kgen.solvers.SOLVERS`, or a plan.
        process: a `GaussianDiffusion`.

    Raises:
        ValueError: for anything else.
    """
    if all(callable(getattr(solver, name, None)) for name in METHODS):
        return solver
    return Plan(solvers.get(solver), process)
