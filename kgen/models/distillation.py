"""Consistency distillation: a student that follows the probability flow to its end at once.

Let Phi be one solver step of the probability flow of a teacher, with guidance at a fixed scale. The
student x_hat(z, t) is trained to return one and the same value, the end of the flow, at all points
of a path. Of two neighbouring times t > s of a grid of N + 1 times, equally spaced in log-SNR from
1 to 0, it is compared at t with itself at s, where the error is smaller already:

    z_t ~ q(z_t | x),    z_s = Phi(z_t, t, s)

    loss = E[ w(t, s) d( student(z_t, t), stop_gradient(target(z_s, s)) ) ]

    target(z_s, s) = the student with averaged weights, or the student; target(z_0, 0) = z_0

For a student without loss the error at t = 1 is the sum of the errors of N solver steps, each
carried to the end of the flow, so that it vanishes for N -> infinity as that of the solver does
(Song et al., theorem 1). Guidance is a part of Phi, so that the student needs one evaluation where
the guided teacher needs two.

    distance   l2      |a - b|^2 / dim
               huber   sqrt(|a - b|^2 / dim + c^2) - c,    c = 0.00054
    weighting  one     1
               step    1 / (n_t - n_s),    n = sigma / alpha,  relative to the mean over the grid

References:
  Song et al. (2023), https://arxiv.org/abs/2303.01469, eq. 7 and algorithm 2.
  Luo et al. (2023), https://arxiv.org/abs/2310.04378, section 4.2 (the guided flow).
  Song and Dhariwal (2023), https://arxiv.org/abs/2310.14189, sections 3.3 and 3.5 (the distance
  and the weighting).
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_number, check_one_of
from kgen.diffusion import classifier_free, sample_times, time_grid
from kgen.diffusion.guidance import condition
from kgen.layer_tree import freeze, layers_of
from kgen.models.denoiser_model import DenoiserModel
from kgen.serialization import constructor_arguments, copied, serializable
from kgen.solvers import DDIM, Consistency, Heun
from kgen.tensors import expand_to, split, sum_event
from kgen.training.model import TermsModel
from kgen.types import Batch, Condition, Network

SOLVERS = {"ddim": DDIM(), "heun": Heun()}
HUBER = 0.00054


@serializable
class Distillation(TermsModel):
    """Training of a student that generates in 1 to 4 evaluations what its teacher does in many.

    The student is a model of the class of its teacher. Its network starts as a copy of the
    teacher's; all other parts, such as the conditioner and the autoencoder, are those of the
    teacher. The weights of the teacher are set to their averages and frozen.
    After `fit`, `distillation.student` is used as any other model:

        distillation = kgen.Distillation(kgen.from_preset(folder), guidance_scale=3.0)
        distillation.compile("adam")
        distillation.fit(data)
        distillation.student.save_to_preset(another)
        distillation.student.generate(prompts, num_steps=2)

    Args:
        teacher: a trained `DiffusionModel`, `ScoreModel` or `LatentDiffusion`.
        network: the network of the student, as that of the teacher; None for a copy of the
            teacher's.
        guidance_scale: scale of the guidance that the student learns; None for the default of the
            teacher. The student itself generates without guidance.
        intervals: N, the number of intervals of the grid of times.
        solver: the solver step of the teacher, `"ddim"` of first order, or `"heun"` of second
            order, for twice the evaluations of the teacher.
        target: `"averaged"` for the student with averaged weights, or `"student"`.
        distance: `"huber"` or `"l2"`; see the module.
        weighting: `"one"` or `"step"`; see the module.
        num_steps: default `num_steps` of `generate` of the student.
        ema_decay: decay of the averaged weights of the student, which are those of the target and
            of the trained student; None only with the target `"student"`.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Batches are those of the teacher, also precomputed ones of a `LatentDiffusion`.

    Attributes:
        teacher: the teacher.
        student: the student, whose default solver is `kgen.solvers.Consistency`.

    Raises:
        TypeError: if `teacher` is not a model with a denoiser, or an option is not a number.
        ValueError: if an option is unknown or out of range, or the teacher has a LoRA.

    Example:
        >>> from kgen import DiffusionModel
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR
        >>> from kgen.networks import TimeMLP
        >>> process = GaussianDiffusion(LinearLogSNR())
        >>> teacher = DiffusionModel(TimeMLP(2, width=16), process, grey_levels=None)
        >>> distillation = Distillation(teacher)
        >>> distillation.compile("adam")  # then distillation.fit(data)
        >>> distillation.student.generate(num_samples=3, num_steps=1, seed=0).shape
        (3, 2)
    """

    def __init__(
        self,
        teacher: DenoiserModel,
        network: Network | None = None,
        *,
        guidance_scale: float | None = None,
        intervals: int = 50,
        solver: Literal["ddim", "heun"] = "ddim",
        target: Literal["averaged", "student"] = "averaged",
        distance: Literal["huber", "l2"] = "huber",
        weighting: Literal["one", "step"] = "one",
        num_steps: int = 2,
        ema_decay: float | None = 0.95,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        if not isinstance(teacher, DenoiserModel):
            raise TypeError(
                "`teacher` must be a DiffusionModel, a ScoreModel or a LatentDiffusion. "
                f"Received: teacher of type {type(teacher).__name__}."
            )
        if teacher.lora is not None:
            raise ValueError("`teacher` must have no LoRA. Call `teacher.merge_lora()` first.")
        if guidance_scale is None:
            guidance_scale = teacher.default_guidance_scale
        check_number("guidance_scale", guidance_scale)
        check_count("intervals", intervals)
        check_count("num_steps", num_steps)
        check_one_of("solver", solver, SOLVERS)
        check_one_of("target", target, ("averaged", "student"))
        check_one_of("distance", distance, ("huber", "l2"))
        check_one_of("weighting", weighting, ("one", "step"))
        if ema_decay is None and target == "averaged":
            raise ValueError("`ema_decay` must be a number with the target 'averaged'.")
        self.guidance_scale = guidance_scale
        self.intervals = intervals
        self.solver = SOLVERS[solver]
        self.target = target
        self.distance = distance
        self.weighting = weighting
        teacher.assign_averages()
        freeze(teacher)
        self.teacher = teacher
        settings = {"ema_decay": ema_decay, "seed": seed, "default_num_steps": num_steps}
        self.student = _student(teacher, network, settings)
        self.averages = self.student.averages
        self.built = True

    @property
    def target_key(self) -> str | None:
        """Key of the entry of a batch that the targets of `fit(x, y)` become, or None."""
        return self.teacher.target_key

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        return ("consistency",)

    @property
    def optimized_variables(self) -> list[keras.Variable]:
        """The variables that the optimizer trains: those of the network of the student."""
        return self.student.network.trainable_variables

    @property
    def generate(self) -> Callable[..., np.ndarray]:
        """The method `generate` of the student, which callbacks call."""
        return self.student.generate

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `consistency`, `[B]`, the weighted distance of the student to its target."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        z_0 = self.student.latents_of(batch, seeds[0])
        cond = self.student.encode_condition(batch, False, seeds[1])
        t, s, weight = self.draw_times(tf.shape(z_0)[0], seeds[2])
        process = self.student.process
        z_t = process.marginal(z_0, t).sample(seeds[3])
        z_s = self.teacher_step(z_t, t, s, cond)
        with self.averaged() if self.target == "averaged" else nullcontext():
            target = self.student.denoiser(z_s, s, cond)
        target = tf.stop_gradient(tf.where(expand_to(s > 0, z_s), target, z_s))
        x_hat = self.student.denoiser(z_t, t, cond, training)
        return {"consistency": weight * self._distance(x_hat, target)}

    def draw_times(
        self, batch_size: int | tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Draws neighbouring times t > s of the grid; returns t, s and the weights, `[B]` each."""
        process = self.student.process
        times = time_grid(process, self.intervals)
        share, _ = sample_times("stratified", process, batch_size, seed)
        index = tf.cast(share * self.intervals, tf.int32)
        index = tf.minimum(index, self.intervals - 1)  # a share below 1 may be rounded to 1
        weights = tf.ones([self.intervals])
        if self.weighting == "step":
            level = tf.exp(-process.log_snr(times) / 2)
            weights = 1 / (level[:-1] - level[1:])
            weights /= tf.reduce_mean(weights)
        return tuple(tf.gather(v, index) for v in (times[:-1], times[1:], weights))

    def teacher_step(
        self, z: tf.Tensor, t: tf.Tensor, s: tf.Tensor, cond: Condition = None
    ) -> tf.Tensor:
        """Makes one solver step of the guided teacher.

        Args:
            z: noisy values at the times `t`, `[B, ...]`.
            t: times, `[B]`.
            s: times to go to, `[B]`.
            cond: the encoded condition, or None.

        Returns:
            The values at the times `s`, `[B, ...]`.
        """
        if cond is None or self.guidance_scale == 1:
            denoise = condition(self.teacher.denoise, cond)
        else:
            null = self.teacher.conditioner.null(tf.shape(z)[0])
            denoise = classifier_free(self.teacher.denoise, cond, null, self.guidance_scale)
        first, memory = tf.constant(0), self.solver.initial_memory(z)
        t, s = expand_to(t, z), expand_to(s, z)
        z, _ = self.solver.step(denoise, self.student.process, z, t, s, first, memory, None)
        return z

    def _distance(self, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        """Returns the distance of each example, `[B]`, per value."""
        square = sum_event((a - b) ** 2) / tf.cast(tf.size(a[0]), tf.float32)
        return square if self.distance == "l2" else tf.sqrt(square + HUBER**2) - HUBER

    def check_batch(self, batch: Batch) -> None:
        """Validates a batch before training and evaluation, as the teacher does."""
        self.teacher.check_batch(batch)

    def warn_about(self, batch: Batch) -> None:
        """Warns of a batch that is valid but probably a mistake, as the teacher does."""
        self.teacher.warn_about(batch)

    def as_batch(self, data: Any) -> tuple[Batch, tf.Tensor | None]:
        """Splits a batch into inputs and example weights, as the teacher does."""
        return self.teacher.as_batch(data)


def _student(
    teacher: DenoiserModel, network: Network | None, settings: dict[str, Any]
) -> DenoiserModel:
    """Returns a model with the parts and settings of a teacher, except for its network.

    Args:
        teacher: a model that is frozen.
        network: the network of the student; None for a copy of the teacher's, with its weights.
        settings: arguments of the constructor to change.

    Raises:
        ValueError: if the network of the teacher cannot be copied.
    """
    copy = network is None
    if copy:
        if not isinstance(teacher.network, keras.Layer):
            raise ValueError(
                "`network` must be given for a teacher whose network is not a Keras layer. "
                f"Received: {teacher.network!r}."
            )
        network = copied(teacher.network)
        for layer in layers_of(network):
            layer.trainable = True
    arguments = {"dtype": teacher.dtype_policy, **constructor_arguments(teacher), **settings}
    solver = {"default_solver": Consistency(), "default_guidance_scale": 1.0}
    student = type(teacher)(**{**arguments, **solver, "network": network})
    if copy:
        for variable, value in zip(network.weights, teacher.network.weights, strict=True):
            variable.assign(value)
        student.averages.reset()
    return student
