"""The abstract base of diffusion, score and latent diffusion models: models that own a denoiser.

An estimate x_hat(z, t) = E[x given z_t = z] is enough to sample (`kgen.solvers`), to edit examples
(`kgen.sampling.editing`) and to guide the sampling (`kgen.diffusion.guidance`).

    z_1 --solver, guidance--> z_0 --to_data--> examples      generate
    examples --to_z--> z_0 --solver--> z_1                   invert

z is the data themselves (`kgen.models.density_model`) or their latents
(`kgen.models.latent_diffusion`); `to_z` and `to_data` convert between z and the data.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen import likelihoods
from kgen.checks import (
    check_count,
    check_interval,
    check_number,
    check_one_of,
    check_pictures,
)
from kgen.conditioning import Conditioner, drop_condition
from kgen.conditioning.conditioner import pictures_of
from kgen.diffusion import Denoiser, GaussianDiffusion
from kgen.diffusion.times import TIME_SAMPLERS
from kgen.diffusion.weighting import WEIGHTINGS
from kgen.models.denoising_checks import check_denoising_network, check_size, checked_examples
from kgen.models.finetuned_model import FineTunedModel
from kgen.models.generative_model import images_of
from kgen.sampling.compiled import Compiled
from kgen.sampling.plan import Plan, plan_of
from kgen.sampling.request import (
    condition_and_number,
    condition_rows,
    rows_of,
    seeds_and_indices,
    slices,
    start_of,
)
from kgen.sampling.run import Run
from kgen.sampling.sampler import Guided, Sampler, example_seeds
from kgen.solvers import Solver
from kgen.types import (
    Batch,
    Condition,
    Guidance,
    Memory,
    Network,
    Prediction,
    Shape,
    SolverName,
    TensorLike,
    TimeSampler,
    Weighting,
)


class DenoiserModel(FineTunedModel):
    """Abstract base of generative models with a denoiser and an optional conditioner.

    A subclass sets `data_shape` and `likelihood`, and then calls `set_denoiser`.

    Args:
        weighting: a key of `kgen.diffusion.weighting.WEIGHTINGS`.
        times: a key of `kgen.diffusion.times.TIME_SAMPLERS`.
        cond_drop_rate: probability in training that the condition of an example is replaced by the
            null condition.
        default_solver: default `solver` of `generate`; None for that of the class.
        default_guidance_scale: default `guidance_scale` of `generate`; None for that of the class.
        default_num_steps: default `num_steps` of `generate`; None for that of the class.
        published: None, or the `kgen.published.origin.Published` of a model that
            `kgen.from_diffusers` opened.
        **kwargs: arguments of `FineTunedModel`.

    Attributes:
        denoiser: the `kgen.diffusion.Denoiser`.
        default_solver: default `solver` of `generate`.
        default_num_steps: default `num_steps` of `generate`.
        default_guidance_scale: default `guidance_scale` of `generate`.
        default_batch_size: default `batch_size` of `generate`.

    Raises:
        TypeError: if an option is not a number.
        ValueError: if an option is unknown or out of range.
    """

    default_solver = "dpm"
    default_num_steps = 50
    default_guidance_scale = 1.0
    default_batch_size = 256
    trains_schedule = False
    bounded = True  # whether the data must be in the range of the likelihood

    def __init__(
        self,
        *,
        weighting: Weighting,
        times: TimeSampler,
        cond_drop_rate: float,
        default_solver: Solver | Plan | SolverName | None = None,
        default_guidance_scale: float | None = None,
        default_num_steps: int | None = None,
        published: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_one_of("weighting", weighting, WEIGHTINGS)
        check_one_of("times", times, TIME_SAMPLERS)
        check_interval("cond_drop_rate", cond_drop_rate, "[0, 1]")
        self.weighting = weighting
        self.times = times
        self.cond_drop_rate = cond_drop_rate
        self.published = published
        if default_solver is not None:
            self.default_solver = default_solver
        if default_guidance_scale is not None:
            check_number("default_guidance_scale", default_guidance_scale)
            self.default_guidance_scale = default_guidance_scale
        if default_num_steps is not None:
            check_count("default_num_steps", default_num_steps)
            self.default_num_steps = default_num_steps

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "adam",
        *,
        recompute: bool = False,
        **kwargs: Any,
    ) -> None:
        """Configures training; see `GenerativeModel.compile`.

        Args:
            optimizer: a Keras optimizer or its name.
            recompute: whether the backward pass computes the activations of the network again, so
                that they need less memory; a step takes 1.2 to 1.4 times as long
                (`kgen.networks.recompute`).
            **kwargs: options of `GenerativeModel.compile`.

        Raises:
            TypeError: if `recompute` is True and the network has no method `recompute`, as a
                `kgen.networks.ConditionalNetwork` has.
            ValueError: if `recompute` is True and the network has dropout, batch normalisation
                or an activity regulariser.
        """
        set_recompute = getattr(self.network, "recompute", None)
        if set_recompute is not None:
            set_recompute(recompute)
        elif recompute:
            raise TypeError(
                "`recompute` needs a network with a method `recompute`, such as a UNet or another "
                f"ConditionalNetwork. Received: a {type(self.network).__name__}."
            )
        self.recompute = recompute
        super().compile(optimizer, **kwargs)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile` for a `.keras` file, or None before `compile`."""
        config = super().get_compile_config()
        return config and {**config, "recompute": self.recompute}

    def set_denoiser(
        self,
        network: Network,
        process: GaussianDiffusion,
        prediction: Prediction,
        conditioner: Conditioner | None,
        shape: Shape,
    ) -> None:
        """Creates the denoiser, the conditioner and the sampler of the model.

        Weights that a subclass creates before this call come first in the model's weights.

        Args:
            network: network of any kind (`kgen.symbolic`), called as `network(z, log_snr, cond)`;
                returns the shape of `z`.
            process: a `GaussianDiffusion`.
            prediction: what the network predicts, a key of
                `kgen.diffusion.prediction.PREDICTION_TYPES`.
            conditioner: None, or a `Conditioner`.
            shape: shape of the z of one example.

        Raises:
            ValueError: if the schedule is learned but the model does not train it, the network does
                not accept the condition or returns another shape, or an option is unknown.
        """
        check_denoising_network(network, conditioner, tuple(shape))
        self.denoiser = Denoiser(network, process, prediction, name="denoiser")
        if self.denoiser.learned_schedule is not None and not self.trains_schedule:
            raise ValueError("A learned schedule needs a DiffusionModel, whose bound trains it.")
        plan_of(self.default_solver, process)
        self.conditioner = conditioner
        self.sampler = Sampler(self.denoiser, process, tuple(shape), self.averaged)
        self.begin_run = Compiled(self._begin, self.averaged)
        self.advance_run = Compiled(self.sampler.advance, self.averaged)
        self.finish_run = Compiled(self._finish, self.averaged)
        self.inversion = Compiled(self._invert, self.averaged)
        self.built = True
        self.start_averaging()

    @property
    def process(self) -> GaussianDiffusion:
        """The process of the denoiser."""
        return self.denoiser.process

    @property
    def network(self) -> Network:
        """The network of the denoiser."""
        return self.denoiser.network

    @property
    def prediction(self) -> Prediction:
        """The prediction type of the network, such as `"v"`."""
        return self.denoiser.prediction

    @property
    def learned_schedule(self) -> keras.layers.Layer | None:
        """The schedule of the process if it is learned, else None."""
        return self.denoiser.learned_schedule

    def to_z(self, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Converts the examples and the mask of an editing run to the space of z.

        Args:
            given: a dictionary that may have the keys `"x"` (examples), `"mask"`, `"strength"` and
                `"noise"`; see `kgen.sampling.sampler.Sampler.begin`.

        Returns:
            The dictionary, with `"x"` and `"mask"` in the space of z.
        """
        return given

    def to_data(self, z: tf.Tensor, given: dict[str, tf.Tensor]) -> tf.Tensor:
        """Converts the last z of a run to examples, pictures to uint8.

        Args:
            z: `[B, ...]`.
            given: as of `to_z`, in the space of the data.
        """
        return likelihoods.to_output(self.likelihood, z)

    def latents_of(self, batch: Batch, seed: tf.Tensor) -> tf.Tensor:
        """Returns the clean z_0 of the examples of a batch, on which the denoiser is trained.

        Args:
            batch: a batch of `fit`.
            seed: an int32 pair, for models whose latents are random.

        Returns:
            A tensor `[B, ...]`, float32.
        """
        return images_of(batch)

    def encode_condition(self, batch: Batch, training: bool, seed: tf.Tensor) -> Condition:
        """Encodes the condition of a batch; in training, drops it from some of the examples.

        Args:
            batch: a dictionary with the values of the condition, or with the encoded condition as
                its entry `"condition"`.
            training: whether to drop conditions, at the rate `cond_drop_rate`.
            seed: an int32 pair, the seed of the dropping.

        Returns:
            The encoded condition, or None for a model without a conditioner.
        """
        if self.conditioner is None:
            return None
        if "condition" in batch:
            cond = batch["condition"]
        else:
            cond = self.conditioner(self.conditioner.values_of(batch), training=training)
        if training and self.cond_drop_rate:
            cond = drop_condition(cond, self.conditioner.null(1), self.cond_drop_rate, seed)
        return cond

    def denoise(self, z: tf.Tensor, t: TensorLike, cond: Condition = None) -> tf.Tensor:
        """Returns x_hat, the estimate of E[x given z_t = z], with the averaged weights.

        Solvers, likelihoods and the `autoguidance` of another model can call it.

        Args:
            z: noisy values, `[B, ...]`.
            t: times in [0, 1], a scalar or `[B]`.
            cond: for a conditional model, the output of its conditioner.

        Returns:
            A tensor of the shape of `z`.
        """
        with self.averaged():
            return self.denoiser(z, t, cond)

    def generate(
        self,
        condition: Any = None,
        *,
        num_samples: int | None = None,
        negative: Any = None,
        num_steps: int | None = None,
        solver: Solver | Plan | SolverName | None = None,
        guidance_scale: float | None = None,
        guidance: Guidance | None = None,
        size: Sequence[int] | None = None,
        images: TensorLike | None = None,
        strength: float | None = None,
        mask: TensorLike | None = None,
        noise: TensorLike | None = None,
        seed: int | Sequence[int] | None = None,
        batch_size: int | None = None,
        trajectory: bool = False,
        on_step: Callable[[int, int, Callable[[], np.ndarray]], None] | None = None,
        verbose: int = 0,
    ) -> np.ndarray:
        """Generates examples, from noise or by editing other examples.

        Args:
            condition: for a conditional model, one condition per example, such as prompts, labels,
                vectors or pictures; or an encoded condition, the output of its conditioner.
            num_samples: for a conditional model, the number of examples per condition (1 by
                default). For an unconditional model, the number of examples, which is required.
            negative: None, or a condition to move away from, one for all examples or one per
                example.
            num_steps: number of solver steps, at least 1. A change does not trace a new graph.
            solver: a `kgen.solvers.Solver`, a name in `kgen.solvers.SOLVERS`, or a plan
                (`kgen.sampling.plan`).
            guidance_scale: scale of the guidance. 1 is the conditional model without guidance; with
                a larger scale, examples follow the condition more closely.
            guidance: None for classifier-free guidance, or another guidance function; see
                `kgen.diffusion.guidance`. An equal `functools.partial` is not traced again.
            size: None for the size of the training data, or `(height, width)` of the pictures in
                pixels, if the networks accept any size.
            images: None, or the examples to edit, `[N, *data_shape]`; pictures may be uint8.
            strength: with `images`, the time in (0, 1] at which sampling starts; at 1 nothing of
                `images` is kept. None is 0.6, or 1 with a mask.
            mask: with `images`, 1 where a value is to be generated and 0 where `images` is kept,
                `[N or 1, H, W, 1]`.
            noise: None, or z at t = 1, `[N, *shape of z]`, such as the output of `invert`. With a
                published scheduler it is standard normal noise, which the scheduler scales.
            seed: None for random examples. An integer for reproducible ones, each of which depends
                only on the seed and on its index; or a sequence of one integer per example, so that
                each example can be generated again without the others.
            batch_size: number of examples that are generated at once.
            trajectory: whether to return the estimate x_hat after each step. It costs one more
                evaluation of the network per step.
            on_step: None, or a function `on_step(step, num_steps, preview)` that is called after
                each step; `preview()` returns the estimates x_hat of the present batch.
            verbose: 1 for a progress bar of the steps, 0 for none.

        Returns:
            An array `[N, ...]`: uint8 `[N, H, W, C]` for pictures, else float32. With `trajectory`,
            `[N, num_steps, ...]`; its last entry is the result without `trajectory`.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if an argument is out of range, or arguments are not compatible.
        """
        num_steps = self.default_num_steps if num_steps is None else num_steps
        scale = self.default_guidance_scale if guidance_scale is None else guidance_scale
        batch_size = self.default_batch_size if batch_size is None else batch_size
        plan = plan_of(self.default_solver if solver is None else solver, self.process)
        plan.check(num_steps)
        check_count("batch_size", batch_size)
        check_number("guidance_scale", scale)
        with pictures_of(size):
            rows, num = condition_and_number(self.conditioner, condition, num_samples)
            negative = condition_rows(self.conditioner, negative, num, "negative")
        data_shape, shape = self.shapes_of(size)
        given = start_of(num, shape, noise, images, strength, mask)
        if images is not None:
            given["x"] = checked_examples(images, data_shape, self.likelihood, self.bounded)
        seeds, indices = seeds_and_indices(seed, num)
        bar = keras.utils.Progbar(-(-num // batch_size) * num_steps, verbose=verbose)
        run = Run(
            self.begin_run(plan, shape),
            self.advance_run(plan.solver, guidance),
            self.finish_run(None if _ends_at_estimate(plan) else plan, guidance),
            self.finish_run(None, guidance),
            num_steps,
            trajectory,
            on_step,
            bar,
        )
        scale, parts = tf.constant(scale, tf.float32), []
        for part in slices(num, batch_size):
            with pictures_of(size):
                cond, null = self.conditions_of(rows_of(rows, part), rows_of(negative, part))
            guided = Guided(cond, null, scale, tf.range(part.start, part.stop))
            parts.append(run(*rows_of((seeds, indices), part), guided, rows_of(given, part)))
        return np.concatenate(parts)

    def invert(
        self,
        images: TensorLike,
        condition: Any = None,
        *,
        num_steps: int = 50,
        solver: Solver | SolverName = "ddim",
        guidance_scale: float = 1.0,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Returns the noise from which `generate` reproduces given examples.

        Args:
            images: examples `[N, *data_shape]`; pictures may be uint8.
            condition: for a conditional model, one condition for all examples or one per example.
            num_steps: number of solver steps. The errors of the inversion and of the generation add
                up, so that more steps are needed than to generate.
            solver: a deterministic `kgen.solvers.Solver`, or its name in `kgen.solvers.SOLVERS`.
            guidance_scale: see `generate`; the inversion is accurate only near 1.
            batch_size: number of examples that are inverted at once.

        Returns:
            float32 `[N, *shape of z]`, the argument `noise` of `generate`.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if an argument is out of range, or the condition of a conditional model is
                missing.
        """
        batch_size = self.default_batch_size if batch_size is None else batch_size
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        plan = plan_of(solver, self.process)
        x = checked_examples(images, self.data_shape, self.likelihood, self.bounded)
        invert = self.inversion(plan.solver)
        if condition is None and self.conditioner is not None:
            raise ValueError("`condition` must be given to a model with a conditioner.")
        rows = condition_rows(self.conditioner, condition, len(x))
        steps, scale = tf.constant(num_steps), tf.constant(guidance_scale, tf.float32)
        parts = []
        for part in slices(len(x), batch_size):
            cond, null = self.conditions_of(rows_of(rows, part), None)
            guided = Guided(cond, null, scale, tf.range(part.start, part.stop))
            parts.append(invert(steps, guided, x[part]).numpy())
        return np.concatenate(parts)

    def conditions_of(self, rows: Any, negative: Any) -> tuple[Condition, Condition]:
        """Encodes the rows of a batch with the averaged weights.

        Args:
            rows: the rows of the condition (`Conditioner.prepare`), or None.
            negative: the rows of the condition to move away from; None for the null condition.

        Returns:
            The encoded condition and the one to move away from; both None if `rows` is None.
        """
        if rows is None:
            return None, None
        with self.averaged():
            cond = self.conditioner(rows)
            if negative is None:
                size = tf.shape(tf.nest.flatten(cond)[0])[0]
                return cond, self.conditioner.null(size)
            return cond, self.conditioner(negative)

    def check_batch(self, batch: Batch) -> None:
        """Validates a batch before training and evaluation.

        Raises:
            TypeError: if the examples or the condition have the wrong type.
            ValueError: if they have the wrong shape or range, or an entry is missing.
        """
        batch = self.fill_missing(batch)
        check_pictures(batch, self.data_shape, self.likelihood if self.bounded else None)
        if self.conditioner is not None:
            values = self.conditioner.values_of(batch if isinstance(batch, dict) else {})
            self.conditioner.prepare(values)

    def draw(
        self,
        plan: Plan,
        guidance: Guidance | None,
        seeds: tf.Tensor,
        indices: tf.Tensor,
        num_steps: tf.Tensor,
        guided: Guided,
        given: dict[str, tf.Tensor],
        size: Sequence[int] | None = None,
        sampler: Sampler | None = None,
    ) -> tf.Tensor:
        """Generates examples in one graph, for exports.

        Args:
            plan: a `kgen.sampling.plan.Plan`.
            guidance: a guidance, or None; see `generate`.
            seeds: int32 `[B, 2]`.
            indices: int32 `[B]`, which distinguish examples with the same seed.
            num_steps: int32 scalar.
            guided: the condition and the scale of the guidance.
            given: the noise, examples or mask to start from; see `to_z`.
            size: `(height, width)`, or None for the size of the data.
            sampler: the sampler of the export, which reads the exported copies of the weights; None
                for that of the model.

        Returns:
            Examples, as `generate` returns them.
        """
        _, shape = self.shapes_of(size)
        sampler = self.sampler if sampler is None else sampler
        run = self._begin(plan, shape, seeds, indices, num_steps, given)
        z, memory, times, seeds, begin = run
        first, last = tf.constant(0), tf.shape(times)[0] - 1
        z, _ = sampler.advance(
            plan.solver, guidance, z, memory, times, first, last, seeds, guided, begin
        )
        return self.to_data(sampler.finish(plan, guidance, z, times, guided, begin), given)

    def part_functions(
        self,
        solver: Solver | SolverName | None = None,
        size: Sequence[int] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the networks as functions for other runtimes, and how to sample with them.

        Args:
            solver: the solver that the description names; see
                `kgen.serving.parts.description.sampling`.
            size: `(height, width)` of the pictures, or None for the size of the training data.

        Returns:
            The `tf.function`s of `kgen.serving.parts.functions.denoising_parts` by name, and the
            description of `kgen.serving.parts.description.sampling`.

        Raises:
            ValueError: if a description cannot name the solver, the model cannot generate pictures
                of this size, or the conditioner takes texts only.
        """
        from kgen.serving.parts import description, functions

        described = description.sampling(self, solver, size)
        return functions.denoising_parts(self, size), described

    def shapes_of(self, size: Sequence[int] | None) -> tuple[Shape, Shape]:
        """Returns the shapes of an example and of its z.

        Args:
            size: `(height, width)` of the pictures, or None for the size of the training data.

        Raises:
            TypeError: if `size` does not hold numbers.
            ValueError: if the model cannot generate pictures of this size.
        """
        if size is None:
            return self.data_shape, self.sampler.shape
        check_size(size, self.data_shape)
        if not getattr(self.network, "takes_any_size", False):
            raise ValueError(
                f"`size` must be None for a network that takes {self.sampler.shape} only. "
                f"Received: size={size}."
            )
        shape = (*size, self.data_shape[-1])
        return shape, shape

    def _begin(
        self,
        plan: Plan,
        shape: Shape,
        seeds: tf.Tensor,
        indices: tf.Tensor,
        num_steps: tf.Tensor,
        given: dict[str, tf.Tensor],
    ) -> tuple[tf.Tensor, Memory, tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        start_seeds, step_seeds = example_seeds(seeds, indices)
        begin = self.to_z(given)
        z, times = self.sampler.begin(plan, shape, start_seeds, num_steps, begin)
        return z, plan.solver.initial_memory(z), times, step_seeds, begin

    def _finish(
        self,
        plan: Plan | None,
        guidance: Guidance | None,
        z: tf.Tensor,
        times: tf.Tensor,
        guided: Guided,
        begin: dict[str, tf.Tensor],
        given: dict[str, tf.Tensor],
    ) -> tf.Tensor:
        z = self.sampler.finish(plan, guidance, z, times, guided, begin)
        return self.to_data(z, given)

    def _invert(
        self, solver: Solver, num_steps: tf.Tensor, guided: Guided, x: tf.Tensor
    ) -> tf.Tensor:
        return self.sampler.invert(solver, None, num_steps, guided, self.to_z({"x": x})["x"])


def _ends_at_estimate(plan: Plan) -> bool:
    """Returns whether the result of a plan is the estimate x_hat at its last state."""
    return type(plan) is Plan and not plan.solver.ends_at_data
