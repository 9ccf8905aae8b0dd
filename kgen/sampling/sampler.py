"""The sampler of diffusion and score models: from noise to data with a solver and guidance.

    z_1 ~ p(z_1)      the noise of an example is a function of its own seed
    z_1 -> z_0        by a solver, with the guided denoiser
    x = x_hat(z_0)

It can also start from given noise or from an example at a time t < 1 (image to image), and keep a
part of the example (inpainting); see `kgen.sampling.editing`.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import tensorflow as tf

from kgen import philox
from kgen.diffusion import classifier_free
from kgen.diffusion.process import GaussianDiffusion
from kgen.distribution import fuses
from kgen.sampling import editing
from kgen.sampling.plan import Plan
from kgen.solvers.solver import Solver, advance
from kgen.tensors import fold_in, normal
from kgen.types import Condition, ConditionalDenoise, Denoise, Guidance, Memory, Shape


class Guided(NamedTuple):
    """The inputs of the guidance in a run, as tensors.

    Args:
        cond: the condition, or None for an unconditional model.
        negative: the condition to move away from; None if `cond` is.
        scale: the guidance scale, a float32 scalar.
        positions: int32 `[B]`, the index of each example among all that are generated.
    """

    cond: Condition
    negative: Condition
    scale: tf.Tensor
    positions: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The parts of a sampling run: the first state, the steps, and the conversion to examples.

    Args:
        denoise: a function of `z`, `t` and a condition that returns `x_hat`.
        process: a `GaussianDiffusion`.
        shape: shape of the z of one example.
        context: a function that returns the context to trace the denoiser in, such as one in which
            the averaged weights stand in for the trained ones.
    """

    denoise: ConditionalDenoise
    process: GaussianDiffusion
    shape: Shape
    context: Callable[[], AbstractContextManager] = contextlib.nullcontext
    graphs: dict = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def forget(self) -> None:
        """Discards the compiled functions, after layers have changed."""
        self.graphs.clear()

    def begin(
        self,
        plan: Plan,
        shape: tuple,
        seeds: tf.Tensor,
        num_steps: tf.Tensor,
        given: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the first state and the times of the run.

        Args:
            plan: a `kgen.sampling.plan.Plan`.
            shape: shape of the z of one example.
            seeds: int32 `[B, 2]`, the seeds of the noise of the examples.
            num_steps: an int32 scalar.
            given: a dictionary that may have the keys `"noise"`, z at t = 1; `"x"`, the examples to
                edit, and `"strength"`, the time to start at; `"mask"`, 0 where `x` is kept.

        Returns:
            z `[B, *shape]`, and the times.
        """
        strength = given.get("strength")
        times = tf.cast(plan.times(num_steps, strength), tf.float32)
        if "noise" in given:
            return plan.from_noise(given["noise"], times), times
        eps = normal([tf.shape(seeds)[0], *shape], seeds)
        return plan.start(eps, times, None if strength is None else given["x"]), times

    def advance(
        self,
        solver: Solver,
        guidance: Guidance | None,
        z: tf.Tensor,
        memory: Memory,
        times: tf.Tensor,
        first: tf.Tensor,
        last: tf.Tensor,
        seeds: tf.Tensor,
        guided: Guided,
        given: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, Memory]:
        """Makes the steps `first` to `last - 1`; see `kgen.solvers.solver.advance`."""
        denoise = self.guided(guidance, guided, given)
        return advance(solver, denoise, self.process, z, memory, times, first, last, seeds)

    def finish(
        self,
        plan: Plan | None,
        guidance: Guidance | None,
        z: tf.Tensor,
        times: tf.Tensor,
        guided: Guided,
        given: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        """Returns the examples that belong to a state, `[B, *shape]`.

        Args:
            plan: the plan of a run that has ended, or None for the estimate x_hat at an earlier
                state.
            guidance: see `guided`.
            z: the state at `times[-1]`.
            times: the times of the run.
            guided: a `Guided`.
            given: see `begin`.

        Raises:
            tf.errors.InvalidArgumentError: if the examples are not finite.
        """
        denoise = self.guided(guidance, guided, given)
        x = denoise(z, times[-1]) if plan is None else plan.finish(denoise, z, times)
        return tf.debugging.check_numerics(x, "The samples are not finite")

    def invert(
        self,
        solver: Solver,
        guidance: Guidance | None,
        num_steps: tf.Tensor,
        guided: Guided,
        x: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the noise from which a deterministic solver generates `x`, `[B, *shape]`."""
        denoise = self.guided(guidance, guided, {})
        return editing.invert(solver, denoise, self.process, x, num_steps)

    def guided(
        self, guidance: Guidance | None, guided: Guided, given: dict[str, tf.Tensor]
    ) -> Denoise:
        """Returns the denoiser of a run, a function of `z` and `t`.

        Args:
            guidance: a guidance (`kgen.diffusion.guidance`); None for classifier-free guidance, or
                for no guidance in an unconditional model.
            guided: a `Guided`.
            given: see `begin`.
        """
        if hasattr(guidance, "of_examples"):
            guidance = guidance.of_examples(guided.positions)
        denoise = self._traced_denoise()
        if guidance is None and guided.cond is None:
            result = lambda z, t: denoise(z, t, None)  # noqa: E731
        else:
            guidance = guidance or classifier_free
            result = guidance(denoise, guided.cond, guided.negative, guided.scale)
        if "mask" in given:
            result = editing.inpaint(result, given["x"], given["mask"])
        return result

    def _traced_denoise(self) -> ConditionalDenoise:
        """Returns the denoiser as a function whose graph is traced once for the whole run."""
        key = fuses()
        if key not in self.graphs:

            def denoise(*arguments: Any) -> tf.Tensor:
                with self.context():  # here, since what a context reads belongs to this graph
                    return self.denoise(*arguments)

            self.graphs[key] = tf.function(denoise, reduce_retracing=True, autograph=False)
        return self.graphs[key]


def example_seeds(seeds: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Derives the seeds of the initial noise and of the solver steps of each example.

    Args:
        seeds: int32 `[B, 2]`.
        indices: int32 `[B]`, which distinguish examples with the same seed.

    Returns:
        Two int32 tensors `[B, 2]`.
    """
    pairs = tf.reshape(philox.integers(seeds, 4), [-1, 2, 2])
    return fold_in(pairs[:, 0], indices), fold_in(pairs[:, 1], indices)
