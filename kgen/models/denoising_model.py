"""What diffusion, score and latent diffusion models share: a network that denoises z.

A function x_hat(z, t) = E[x given z_t = z] is enough to draw examples (`kgen.solvers`), to edit
them (`kgen.sampling.editing`) and to steer them (`kgen.diffusion.guidance`).

    z_1 --solver, guidance--> z_0 --_finish--> examples      generate
    examples --_begin--> z_0 --solver--> z_1                 invert, and where editing begins

z is the data themselves (`kgen.models.density_model`) or latents of them
(`kgen.models.latent_diffusion`), which have their own `_begin` and `_finish`.
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
from kgen.diffusion import denoiser
from kgen.diffusion.loss import denoising
from kgen.diffusion.prediction import PREDICTION_TYPES
from kgen.diffusion.timesteps import TIME_SAMPLERS
from kgen.diffusion.weighting import WEIGHTINGS
from kgen.models.generative_model import GenerativeModel, entry
from kgen.sampling.conditions import as_rows, encoded
from kgen.sampling.sampler import Sampler, Steps, check_given, share, slices
from kgen.tensors import as_seed


class DenoisingModel(GenerativeModel):
    """Abstract: a generative model made of a network, a process and perhaps a conditioner.

    A subclass sets `data_shape` and `likelihood`, what its data are, and calls `start_denoising`.

    Args:
        prediction: a key of `PREDICTION_TYPES`.
        weighting: a key of `WEIGHTINGS`.
        times: a key of `TIME_SAMPLERS`.
        cond_drop_rate: share of the examples that are shown the null condition in training.
        **kwargs: as of `GenerativeModel`.

    Raises:
        ValueError: if an option is none of these.
    """

    trains_schedule = False
    bounded = True  # whether the data are in the range of the likelihood

    def __init__(self, *, prediction, weighting, times, cond_drop_rate, **kwargs):
        super().__init__(**kwargs)
        check_one_of("prediction", prediction, PREDICTION_TYPES)
        check_one_of("weighting", weighting, WEIGHTINGS)
        check_one_of("times", times, TIME_SAMPLERS)
        check_interval("cond_drop_rate", cond_drop_rate, "[0, 1]")
        self.prediction = prediction
        self.weighting = weighting
        self.times = times
        self.cond_drop_rate = cond_drop_rate

    def start_denoising(self, network, process, conditioner, shape):
        """Takes the parts, whose weights come after those that the model has already.

        Args:
            network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
            process: a `GaussianDiffusion`.
            conditioner: None, or a `Conditioner`.
            shape: of one z.

        Raises:
            ValueError: for a learned schedule, unless the model trains it, or for a network of
                kgen that has no input for the condition.
        """
        learned = isinstance(process.schedule, keras.layers.Layer)
        if learned and not self.trains_schedule:
            raise ValueError("A learned schedule needs a DiffusionModel, whose bound trains it.")
        inputs = getattr(getattr(network, "graph", None), "input", {"pooled": None})
        if conditioner is not None and not {"tokens", "pooled"} & set(inputs):
            raise ValueError(
                "`network` must be made for a condition, by `pooled=...` or `tokens=...`, where "
                "there is a conditioner: it would be told nothing."
            )
        self.network = network
        self.process = process
        self.conditioner = conditioner
        # Or Keras would not find its weights.
        self.learned_schedule = process.schedule if learned else None
        self.sampler = Sampler(denoiser(network, process, self.prediction), process, shape)
        self.generate_step = Steps(self, self._draw)
        self.inversion_step = Steps(self, self._invert)
        self.built = True
        self.start_averaging()

    def _draw(self, *arguments):
        *others, given = arguments
        return self._finish(self.sampler.draw(*others, self._begin(given)), given)

    def _invert(self, *arguments):
        *others, x = arguments
        return self.sampler.invert(*others, self._begin({"x": x})["x"])

    def _begin(self, given):
        """What sampling is to begin from, as of `Sampler.draw`, made of the given examples."""
        return given

    def _finish(self, z, given):
        """Examples made of the last z; pictures as uint8."""
        return likelihoods.at_the_door(self.likelihood, z)

    def condition(self, batch, training, seed):
        """The condition of a batch, in training with a share of it dropped; or None."""
        if self.conditioner is None:
            return None
        if "condition" in batch:
            cond = batch["condition"]
        else:
            cond = self.conditioner(entry(batch, self.conditioner.batch_key), training=training)
        if training and self.cond_drop_rate:
            cond = drop_condition(cond, self.conditioner.null(1), self.cond_drop_rate, seed)
        return cond

    def _denoising(self, z, cond, seeds, weighting, training, **levels):
        return denoising(
            self.network,
            self.process,
            self.prediction,
            z,
            cond,
            seeds,
            weighting=weighting,
            times=self.times if training else "stratified",
            training=training,
            **levels,
        )

    def denoise(self, z, t, cond=None):
        """x_hat, the estimate of E[x given z_t = z], with the averaged weights.

        What solvers and likelihoods use, and another model's `autoguidance`.

        Args:
            z: `[B, ...]`.
            t: scalar or `[B]`.
            cond: of a conditional model what its conditioner returns.

        Returns:
            A tensor of the shape of `z`.
        """
        with self.averaged():
            return self.sampler.denoise(z, t, cond)

    def generate(
        self,
        num_samples,
        *,
        num_steps=50,
        solver="dpm",
        guidance_scale=1.0,
        guidance=None,
        negative_prompts=None,
        noise=None,
        images=None,
        strength=None,
        mask=None,
        seed=None,
        batch_size=256,
        verbose=0,
    ):
        """Draws examples, from noise or from other examples.

        Args:
            num_samples: how many; of a conditional model the labels or prompts, one for each.
            num_steps: solver steps, at least 1; a change does not retrace.
            solver: a `kgen.solvers.Solver` or a name in `kgen.solvers.SOLVERS`.
            guidance_scale: 1 is the plain conditional model, more follows the condition more.
            guidance: None for classifier-free guidance, or another function of that form; see
                `kgen.diffusion.guidance`. An equal `functools.partial` is not traced again.
            negative_prompts: None, or a label or prompt, or one for each, to move away from.
            noise: None, or z at t = 1 to begin from, `[N, *shape of z]`, such as of `invert`.
            images: None, or examples `[N, *data_shape]` to begin from; pictures may be uint8.
            strength: with `images`, the time in (0, 1] to begin from: 1 keeps nothing of them.
                None is 0.6, or 1 with a mask.
            mask: with `images`, 1 where to paint and 0 where to keep them, `[N or 1, H, W, 1]`.
            seed: an integer for reproducible examples; each depends on it and its index alone,
                with a stochastic solver also on `batch_size`.
            batch_size: examples drawn at once.
            verbose: 1 for a progress bar, 0 for silence.

        Returns:
            uint8 `[N, H, W, C]` where the data are pictures, else float32.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if a number is not positive, or arguments do not fit together.
        """
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        rows, negatives = as_rows(self.conditioner, num_samples), None
        if rows is None:
            check_count("num_samples", num_samples)
        num = num_samples if rows is None else len(rows)
        if negative_prompts is not None:
            negatives = as_rows(self.conditioner, negative_prompts, num, "negative_prompts")
        given = check_given(num, self.sampler.shape, noise, images, strength, mask)
        if images is not None:
            given["x"] = self._data(images)
        step, seed = self.generate_step(solver, guidance), as_seed(seed)
        steps, scale = tf.constant(num_steps), tf.constant(guidance_scale, tf.float32)
        parts = []
        for part in slices(num, batch_size, verbose):
            cond, null = encoded(self, rows, negatives, part)
            indices = tf.range(part.start, part.stop)
            x = step(cond, null, steps, scale, seed, indices, share(given, part))
            parts.append(x.numpy())
        return np.concatenate(parts)

    def invert(
        self,
        images,
        conditions=None,
        *,
        num_steps=50,
        solver="ddim",
        guidance_scale=1.0,
        batch_size=256,
    ):
        """Finds the noise from which `generate` makes given examples.

        Args:
            images: examples `[N, *data_shape]`; pictures may be uint8.
            conditions: of a conditional model the label or prompt, one for all or for each.
            num_steps: solver steps; many, since the way back repeats the errors of the way there.
            solver: a deterministic `kgen.solvers.Solver`, or its name.
            guidance_scale: as of `generate`; inversion is exact only near 1.
            batch_size: examples at once.

        Returns:
            float32 `[N, *shape of z]`, the `noise` of `generate`.
        """
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        x, step = self._data(images), self.inversion_step(solver)
        rows = as_rows(self.conditioner, conditions, len(x), "conditions")
        steps, scale = tf.constant(num_steps), tf.constant(guidance_scale, tf.float32)
        parts = []
        for part in slices(len(x), batch_size):
            cond, null = encoded(self, rows, None, part)
            parts.append(step(cond, null, steps, scale, x[part]).numpy())
        return np.concatenate(parts)

    def check_batch(self, batch):
        """Checks data before training and evaluation."""
        check_pictures(batch, self.data_shape, self.likelihood if self.bounded else None)
        if self.conditioner is not None:
            batch = batch if isinstance(batch, dict) else {}
            self.conditioner.check(entry(batch, self.conditioner.batch_key))

    def _data(self, images):
        """Examples as the model sees them: uint8 pictures are put into the range of the data."""
        images = np.asarray(images)
        if images.dtype == np.uint8:
            low, high = self.likelihood.low, self.likelihood.high
            images = (images / 255 * (high - low) + low).astype("float32")
        check_data("images", images, self.data_shape, self.likelihood if self.bounded else None)
        return tf.constant(images, tf.float32)
