"""From noise to data, as every diffusion and score model of the library does it.

    z_1 ~ p(z_1), each example's noise a function of its own seed
    z_1 -> z_0 by a solver, with the guided denoiser
    x = x_hat(z_0)

It may also begin from given noise, from an example at a time t < 1 (image to image), and keep a
part of it (inpainting); `kgen.sampling.editing` has the mathematics.
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from kgen import philox
from kgen.diffusion import classifier_free
from kgen.sampling import editing
from kgen.solvers.solver import advance
from kgen.tensors import fold_in, normal


class Guided(NamedTuple):
    """What a run is steered by, the same at each of its steps; all tensors.

    Args:
        cond: the condition, or None for an unconditional model.
        negative: the condition to move away from; None where `cond` is.
        scale: of the guidance, a float32 scalar.
        positions: int32 `[B]`, the place of each example among all that are drawn.
    """

    cond: object
    negative: object
    scale: tf.Tensor
    positions: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Sampler:
    """The parts of a run: where it begins, its steps, and what the last state means.

    Args:
        denoise: a function of `z`, `t` and a condition that returns `x_hat`.
        process: a `GaussianDiffusion`.
        shape: of one z.
    """

    denoise: object
    process: object
    shape: tuple

    def begin(self, plan, shape, seeds, num_steps, given):
        """Returns the first state and the times of the run.

        Args:
            plan: a `kgen.sampling.plan.Plan`.
            shape: of one z.
            seeds: int32 `[B, 2]`, of the noise of each example.
            num_steps: an int32 scalar.
            given: a dictionary that may hold `"noise"`, z at t = 1; `"x"`, what an example is to
                begin from, and `"strength"`, the time at which; `"mask"`, 0 where `x` is kept.

        Returns:
            z `[B, *shape]`, and the times.
        """
        strength = given.get("strength")
        times = tf.cast(plan.times(num_steps, strength), tf.float32)
        if "noise" in given:
            return given["noise"], times
        eps = normal([tf.shape(seeds)[0], *shape], seeds)
        return plan.start(eps, times, None if strength is None else given["x"]), times

    def advance(self, solver, guidance, z, memory, times, first, last, seeds, guided, given):
        """Makes the steps `first` to `last - 1`; see `kgen.solvers.solver.advance`."""
        denoise = self.guided(guidance, guided, given)
        return advance(solver, denoise, self.process, z, memory, times, first, last, seeds)

    def finish(self, plan, guidance, z, times, guided, given):
        """Returns what a state means, `[B, *shape]`.

        Args:
            plan: a plan whose run has ended, or None for the estimate x_hat of a state before.
            guidance: as of `guided`.
            z: the state at `times[-1]`.
            times: of the run.
            guided: a `Guided`.
            given: as of `begin`.

        Raises:
            tf.errors.InvalidArgumentError: if it is not finite, which as a pixel would be black.
        """
        denoise = self.guided(guidance, guided, given)
        x = denoise(z, times[-1]) if plan is None else plan.finish(denoise, z, times)
        return tf.debugging.check_numerics(x, "The samples are not finite")

    def invert(self, solver, guidance, num_steps, guided, x):
        """Returns the noise from which a deterministic solver makes `x`, `[B, *shape]`."""
        denoise = self.guided(guidance, guided, {})
        return editing.invert(solver, denoise, self.process, x, num_steps)

    def guided(self, guidance, guided, given):
        """Returns the denoiser of a run, a function of `z` and `t`."""
        if hasattr(guidance, "of_examples"):
            guidance = guidance.of_examples(guided.positions)
        denoise = tf.function(self.denoise)  # its graph is traced once, however often called
        if guidance is None and guided.cond is None:
            result = lambda z, t: denoise(z, t, None)  # noqa: E731
        else:
            guidance = guidance or classifier_free
            result = guidance(denoise, guided.cond, guided.negative, guided.scale)
        if "mask" in given:
            result = editing.inpaint(result, given["x"], given["mask"])
        return result


def example_seeds(seeds, indices):
    """Returns the seeds of the noise and of the steps of each example.

    Args:
        seeds: int32 `[B, 2]`.
        indices: int32 `[B]`, which tell apart the examples of one seed.

    Returns:
        Two int32 tensors `[B, 2]`.
    """
    pairs = tf.reshape(philox.integers(seeds, 4), [-1, 2, 2])
    return fold_in(pairs[:, 0], indices), fold_in(pairs[:, 1], indices)
