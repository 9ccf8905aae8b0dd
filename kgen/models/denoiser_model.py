"""The abstract base of diffusion, score and latent diffusion models: models that own a denoiser.

An estimate x_hat(z, t) = E[x given z_t = z] is enough to draw examples (`kgen.solvers`), to edit
them (`kgen.sampling.editing`) and to steer them (`kgen.diffusion.guidance`).

    z_1 --solver, guidance--> z_0 --to_data--> examples      generate
    examples --to_z--> z_0 --solver--> z_1                   invert, and where editing begins

z is the data themselves (`kgen.models.density_model`) or latents of them
(`kgen.models.latent_diffusion`), which have their own `to_z` and `to_data`.
"""

import keras
import numpy as np
import tensorflow as tf

from kgen import likelihoods
from kgen.checks import (
    check_count,
    check_data,
    check_interval,
    check_number,
    check_one_of,
    check_pictures,
)
from kgen.conditioning import drop_condition
from kgen.conditioning.conditioner import pictures_of
from kgen.diffusion import Denoiser
from kgen.diffusion.times import TIME_SAMPLERS
from kgen.diffusion.weighting import WEIGHTINGS
from kgen.models.finetuned_model import FineTunedModel
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
from kgen.symbolic import describe, output_spec, symbolic, takes_condition


class DenoiserModel(FineTunedModel):
    """Abstract: a generative model that owns a denoiser and perhaps a conditioner.

    A subclass sets `data_shape` and `likelihood`, what its data are, and calls `own_denoiser`.

    Args:
        weighting: a key of `WEIGHTINGS`.
        times: a key of `TIME_SAMPLERS`.
        cond_drop_rate: share of the examples that are given the null condition in training.
        default_solver: None for that of the class, or what `generate` is to take for `solver`.
        default_guidance_scale: None for that of the class, or another one.
        published: None, or what the model keeps of the published one that it was opened from
            (`kgen.published.origin`).
        **kwargs: as of `FineTunedModel`.

    Attributes:
        denoiser: the `kgen.diffusion.Denoiser`.
        default_solver: the solver of `generate`.
        default_num_steps: its steps.
        default_guidance_scale: its scale of guidance.
        default_batch_size: how many examples it draws at once.

    Raises:
        ValueError: if an option has another value.
    """

    default_solver = "dpm"
    default_num_steps = 50
    default_guidance_scale = 1.0
    default_batch_size = 256
    trains_schedule = False
    bounded = True  # whether the data are in the range of the likelihood

    def __init__(
        self,
        *,
        weighting,
        times,
        cond_drop_rate,
        default_solver=None,
        default_guidance_scale=None,
        published=None,
        **kwargs,
    ):
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

    def own_denoiser(self, network, process, prediction, conditioner, shape):
        """Takes the parts, whose weights come after those that the model has already.

        Args:
            network: of any kind (`kgen.symbolic`), called as `network(z, log_snr, cond)`; returns
                the shape of `z`.
            process: a `GaussianDiffusion`.
            prediction: what the output of the network means.
            conditioner: None, or a `Conditioner`.
            shape: of one z.

        Raises:
            ValueError: for a learned schedule, unless the model trains it, or for a network that
                has no place for the condition or returns another shape.
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
    def process(self):
        """The process of the denoiser."""
        return self.denoiser.process

    @property
    def network(self):
        """The network of the denoiser."""
        return self.denoiser.network

    @property
    def prediction(self):
        """What the output of the network means."""
        return self.denoiser.prediction

    @property
    def learned_schedule(self):
        """The schedule, if it has weights, else None."""
        return self.denoiser.learned_schedule

    def to_z(self, given):
        """Returns what sampling begins from, as of `Sampler.begin`, of given examples and mask."""
        return given

    def to_data(self, z, given):
        """Returns examples made of the last z, pictures as uint8; `given` are examples and mask."""
        return likelihoods.to_output(self.likelihood, z)

    def encode_condition(self, batch, training, seed):
        """Returns the condition of a batch, in training with a share of it dropped; or None."""
        if self.conditioner is None:
            return None
        if "condition" in batch:
            cond = batch["condition"]
        else:
            cond = self.conditioner(self.conditioner.values_of(batch), training=training)
        if training and self.cond_drop_rate:
            cond = drop_condition(cond, self.conditioner.null(1), self.cond_drop_rate, seed)
        return cond

    def denoise(self, z, t, cond=None):
        """Returns x_hat, the estimate of E[x given z_t = z], with the averaged weights.

        What solvers and likelihoods use, and another model's `autoguidance`.

        Args:
            z: `[B, ...]`.
            t: scalar or `[B]`.
            cond: of a conditional model what its conditioner returns.

        Returns:
            A tensor of the shape of `z`.
        """
        with self.averaged():
            return self.denoiser(z, t, cond)

    def generate(
        self,
        condition=None,
        *,
        num_samples=None,
        negative=None,
        num_steps=None,
        solver=None,
        guidance_scale=None,
        guidance=None,
        size=None,
        images=None,
        strength=None,
        mask=None,
        noise=None,
        seed=None,
        batch_size=None,
        trajectory=False,
        on_step=None,
        verbose=0,
    ):
        """Draws examples, from noise or from other examples.

        Args:
            condition: of a conditional model what its conditioner takes, one for each example:
                prompts, labels, vectors, pictures; or what it returns (embeddings).
            num_samples: with a condition, how many for each (1); without one, how many.
            negative: None, or a condition to move away from, one for all examples or one for each.
            num_steps: solver steps, at least 1; a change does not retrace.
            solver: a `kgen.solvers.Solver`, a name in `kgen.solvers.SOLVERS`, or a plan
                (`kgen.sampling.plan`).
            guidance_scale: 1 is the plain conditional model, more follows the condition more.
            guidance: None for classifier-free guidance, or another function of that form; see
                `kgen.diffusion.guidance`. An equal `functools.partial` is not traced again.
            size: None, or `(height, width)` of the pictures, where the networks take any size.
            images: None, or examples `[N, *data_shape]` to begin from; pictures may be uint8.
            strength: with `images`, the time in (0, 1] to begin from: 1 keeps nothing of them.
                None is 0.6, or 1 with a mask.
            mask: with `images`, 1 where to paint and 0 where to keep them, `[N or 1, H, W, 1]`.
            noise: None, or z at t = 1 to begin from, `[N, *shape of z]`, such as of `invert`; with
                a published scheduler of unit variance, which it scales as published code does.
            seed: an integer for reproducible examples, each of which depends on it and on its index
                alone; or an integer for each example, by which it can be drawn again alone.
            batch_size: examples drawn at once.
            trajectory: whether to return what each step leads to, the estimate x_hat after it. It
                costs one more evaluation of the network a step.
            on_step: None, or a function `on_step(step, num_steps, preview)` that is called after
                each step; `preview()` returns the estimates x_hat of the present batch.
            verbose: 1 for a progress bar of the steps, 0 for silence.

        Returns:
            uint8 `[N, H, W, C]` where the data are pictures, else float32; a trajectory is
            `[N, num_steps, ...]`, and its last entry is what is returned without it.

        Raises:
            TypeError: if a value is of another type.
            ValueError: if a number is out of range, or arguments do not fit together.
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
            given["x"] = self._data(images, data_shape)
        seeds, indices = seeds_and_indices(seed, num)
        bar = keras.utils.Progbar(-(-num // batch_size) * num_steps, verbose=verbose)
        run = Run(
            self.begin_run(plan, shape),
            self.advance_run(plan.solver, guidance),
            self.finish_run(None if type(plan) is Plan else plan, guidance),
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
        images,
        condition=None,
        *,
        num_steps=50,
        solver="ddim",
        guidance_scale=1.0,
        batch_size=None,
    ):
        """Finds the noise from which `generate` makes given examples.

        Args:
            images: examples `[N, *data_shape]`; pictures may be uint8.
            condition: of a conditional model, one for all examples or one for each.
            num_steps: solver steps; many, since the way back repeats the errors of the way there.
            solver: a deterministic `kgen.solvers.Solver`, or its name.
            guidance_scale: as of `generate`; inversion is exact only near 1.
            batch_size: examples at once.

        Returns:
            float32 `[N, *shape of z]`, the `noise` of `generate`.
        """
        batch_size = self.default_batch_size if batch_size is None else batch_size
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        plan = plan_of(solver, self.process)
        x, invert = self._data(images), self.inversion(plan.solver)
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

    def conditions_of(self, rows, negative):
        """Returns the condition of rows and the one to move away from, with averaged weights."""
        if rows is None:
            return None, None
        with self.averaged():
            cond = self.conditioner(rows)
            if negative is None:
                size = tf.shape(tf.nest.flatten(cond)[0])[0]
                return cond, self.conditioner.null(size)
            return cond, self.conditioner(negative)

    def check_batch(self, batch):
        """Checks data before training and evaluation."""
        batch = self.without_missing(batch)
        check_pictures(batch, self.data_shape, self.likelihood if self.bounded else None)
        if self.conditioner is not None:
            values = self.conditioner.values_of(batch if isinstance(batch, dict) else {})
            self.conditioner.prepare(values)

    def draw(
        self, plan, guidance, seeds, indices, num_steps, guided, given, size=None, sampler=None
    ):
        """Makes a whole run in one graph, for exports: examples, as `generate` returns them.

        `sampler` is that of the export, whose graphs read the weights that the export holds.
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

    def part_functions(self, solver=None, size=None):
        """Returns the networks as functions for other runtimes, and what a client must know.

        Args:
            solver: None, or what the client is told to draw with; see
                `kgen.serving.parts.description.sampling`.
            size: None, or `(height, width)` of the pictures.

        Returns:
            `tf.function`s by the names of the parts (`kgen.serving.parts.functions`), and a
            dictionary for JSON.
        """
        from kgen.serving.parts import description, functions

        said = description.sampling(self, solver, size)
        return functions.denoising_parts(self, size), said

    def shapes_of(self, size):
        """Returns the shapes of an example and of its z at a size.

        Args:
            size: `(height, width)`, or None for the size of the data.

        Raises:
            ValueError: if the model cannot draw pictures of that size.
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

    def _begin(self, plan, shape, seeds, indices, num_steps, given):
        start_seeds, step_seeds = example_seeds(seeds, indices)
        begin = self.to_z(given)
        z, times = self.sampler.begin(plan, shape, start_seeds, num_steps, begin)
        return z, plan.solver.initial_memory(z), times, step_seeds, begin

    def _finish(self, plan, guidance, z, times, guided, begin, given):
        z = self.sampler.finish(plan, guidance, z, times, guided, begin)
        return self.to_data(z, given)

    def _invert(self, solver, num_steps, guided, x):
        return self.sampler.invert(solver, None, num_steps, guided, self.to_z({"x": x})["x"])

    def _data(self, images, shape=None):
        """Examples as the model sees them: uint8 pictures are put into the range of the data."""
        images = np.asarray(images)
        if images.dtype == np.uint8:
            low, high = self.likelihood.low, self.likelihood.high
            images = (images / 255 * (high - low) + low).astype("float32")
        likelihood = self.likelihood if self.bounded else None
        check_data("images", images, shape or self.data_shape, likelihood)
        return tf.constant(images, tf.float32)


def check_size(size, data_shape):
    """Checks the size of pictures.

    Raises:
        TypeError: if an entry is not a number.
        ValueError: if it is not one integer for each spatial axis.
    """
    if not isinstance(size, (tuple, list)) or len(size) != len(data_shape) - 1:
        raise ValueError(
            f"`size` must be None or {len(data_shape) - 1} numbers. Received: size={size!r}."
        )
    for number in size:
        check_count("size", number)


def check_denoising_network(network, conditioner, shape):
    """Checks by one symbolic call that a network denoises; one that is not built is built by it.

    Raises:
        TypeError: if it is neither a network nor a function.
        ValueError: if it has no place for the condition, or returns another shape.
    """
    graph = getattr(network, "graph", None)
    if graph is not None:  # a network of kgen says what it was made for
        taken = set(graph.input) & {"tokens", "pooled", "picture"}
        if conditioner is not None and not taken:
            raise ValueError(
                "`network` must have an input for the condition, by `pooled=...`, `tokens=...` or "
                "`picture=...`, where there is a conditioner."
            )
        return
    cond = None
    if conditioner is not None:
        if not takes_condition(network, 2):
            raise ValueError(
                "`network` must take the condition where there is a conditioner: "
                f"`network(z, log_snr, cond)`. Received: network={network!r}."
            )
        null = conditioner.null(1)
        cond = {key: symbolic(value.shape[1:], value.dtype) for key, value in null.items()}
    inputs = {"z": symbolic(shape), "log_snr": symbolic(()), "cond": cond}
    output = output_spec(network, inputs, "network")
    if tuple(getattr(output, "shape", ()))[1:] != shape:
        raise ValueError(
            f"`network` must return the shape of z, {shape}. "
            f"Received: {describe({'an output of': output})}."
        )
