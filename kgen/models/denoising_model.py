"""What diffusion models and score models share: a network that denoises, and all that follows.

A function x_hat(z, t) = E[x given z_t = z] is enough to draw examples (`kgen.solvers`), to edit
them (`kgen.editing`), to steer them (`kgen.diffusion.guidance`) and to measure their density
(`kgen.likelihood`). How the network is trained is what the models differ in.
"""

import keras
import numpy as np
import tensorflow as tf

from kgen import likelihood, likelihoods, solvers
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
from kgen.diffusion.loss import denoising, prior_term, reconstruction_term
from kgen.diffusion.prediction import PREDICTION_TYPES
from kgen.diffusion.timesteps import TIME_SAMPLERS
from kgen.diffusion.weighting import WEIGHTINGS
from kgen.models import diffusion_serving
from kgen.models.generative_model import GenerativeModel, entry
from kgen.models.sampling import Sampler, Steps, check_given, share, slices
from kgen.models.variational_dequantization import VariationalDequantization
from kgen.tensors import as_seed, fold_in, split


class DenoisingModel(GenerativeModel):
    """Abstract: a generative model made of a network, a process and perhaps a conditioner.

    Args:
        network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
        process: a `GaussianDiffusion`.
        data_shape: shape of an example, or None for that of the network.
        prediction: a key of `PREDICTION_TYPES`.
        weighting: a key of `WEIGHTINGS`.
        levels: a number of noise levels, or None for continuous time.
        grey_levels: number of values of a pixel in [-1, 1], or None for real values.
        conditioner: None, or a `Conditioner`.
        cond_drop_rate: share of the examples that are shown the null condition in training.
        times: a key of `TIME_SAMPLERS`.
        **kwargs: as of `GenerativeModel`.

    Raises:
        ValueError: if an option is none of these.
    """

    def __init__(
        self,
        network,
        process,
        *,
        data_shape,
        prediction,
        weighting,
        levels,
        grey_levels,
        conditioner,
        cond_drop_rate,
        times,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_one_of("prediction", prediction, PREDICTION_TYPES)
        check_one_of("weighting", weighting, WEIGHTINGS)
        check_one_of("times", times, TIME_SAMPLERS)
        if levels is not None:
            check_count("levels", levels)
        if grey_levels is not None:
            check_count("grey_levels", grey_levels)
            check_interval("grey_levels", grey_levels, "[2, inf)")
        check_interval("cond_drop_rate", cond_drop_rate, "[0, 1]")
        if data_shape is None:
            data_shape = getattr(network, "data_shape", None)
        if data_shape is None:
            raise ValueError("`data_shape` must be given for a network that has none.")
        self.network = network
        self.process = process
        self.data_shape = tuple(data_shape)
        self.prediction = prediction
        self.weighting = weighting
        self.levels = levels
        self.grey_levels = grey_levels
        self.conditioner = conditioner
        self.cond_drop_rate = cond_drop_rate
        self.times = times
        # What the data are, for checks, bits per dimension and pixels.
        self.likelihood = (
            likelihoods.GaussianLikelihood()
            if grey_levels is None
            else likelihoods.LogisticMixture()
        )
        self.learned_schedule = None
        if isinstance(process.schedule, keras.layers.Layer):
            self.learned_schedule = process.schedule  # or Keras would not find its weights
        self.sampler = Sampler(denoiser(network, process, prediction), process, self.data_shape)
        self.generate_step = Steps(self, self._draw)
        self.inversion_step = Steps(self, self.sampler.invert)
        self.likelihood_step = Steps(self, self._log_likelihood)
        self.built = True
        self.start_averaging()

    def _draw(self, *arguments):
        x = self.sampler.draw(*arguments)
        picture = len(self.data_shape) == 3
        return likelihoods.to_uint8(self.likelihood, x) if picture else x

    def _log_likelihood(self, solver, num_probes, x, cond, seed):
        return likelihood.log_likelihood(
            lambda z, t: self.sampler.denoise(z, t, cond),
            self.process,
            x,
            solver=solver,
            num_probes=num_probes,
            seed=seed,
        )

    def condition(self, batch, training, seed):
        """The condition of a batch, in training with a share of it dropped; or None."""
        if self.conditioner is None:
            return None
        cond = self.conditioner(entry(batch, self.conditioner.batch_key), training=training)
        if training and self.cond_drop_rate:
            cond = drop_condition(cond, self.conditioner.null(1), self.cond_drop_rate, seed)
        return cond

    def denoise(self, z, t, cond=None):
        """x_hat, the estimate of E[x given z_t = z]: what solvers and likelihoods use."""
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
    ):
        """Draws examples, from noise or from other examples.

        Args:
            num_samples: how many; of a conditional model the labels or prompts, one for each.
            num_steps: solver steps, at least 1; a change does not retrace.
            solver: a `kgen.solvers.Solver` or a name in `kgen.solvers.SOLVERS`.
            guidance_scale: 1 is the plain conditional model, more follows the condition more.
            guidance: None for classifier-free guidance, or another function of that form; see
                `kgen.diffusion.guidance`.
            negative_prompts: None, or a label or prompt, or one for each, to move away from.
            noise: None, or z at t = 1 to begin from, `[N, *data_shape]`, such as of `invert`.
            images: None, or examples `[N, *data_shape]` to begin from; pictures may be uint8.
            strength: with `images`, the time in (0, 1] to begin from: 1 keeps nothing of them.
                None is 0.6, or 1 with a mask.
            mask: with `images`, 1 where to paint and 0 where to keep them, `[N or 1, H, W, 1]`.
            seed: an integer for reproducible examples; each depends on it and its index alone.
            batch_size: examples drawn at once.

        Returns:
            uint8 `[N, H, W, C]` where the data are pictures, else float32.

        Raises:
            ValueError: if a number is not positive, or arguments do not fit together.
        """
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        if self.conditioner is None:
            check_count("num_samples", num_samples)
        conditions = self._conditions("num_samples", num_samples)
        num = num_samples if conditions is None else len(conditions)
        negatives = self._negatives(conditions, negative_prompts)
        given = check_given(num, self.data_shape, noise, images, strength, mask)
        if images is not None:
            given["x"] = self._data(images)
        step, seed = self.generate_step(solver, guidance), as_seed(seed)
        steps, scale = tf.constant(num_steps), tf.constant(guidance_scale, tf.float32)
        parts = []
        for part in slices(num, batch_size):
            cond, null = self._encoded(conditions, negatives, part)
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
            conditions: of a conditional model the labels or prompts, one for each.
            num_steps: solver steps; many, since the way back repeats the errors of the way there.
            solver: a deterministic `kgen.solvers.Solver`, or its name.
            guidance_scale: as of `generate`; inversion is exact only near 1.
            batch_size: examples at once.

        Returns:
            float32 `[N, *data_shape]`, the `noise` of `generate`.
        """
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        x, step = self._data(images), self.inversion_step(solver)
        conditions = self._conditions("conditions", conditions, len(x))
        steps, scale = tf.constant(num_steps), tf.constant(guidance_scale, tf.float32)
        parts = []
        for part in slices(len(x), batch_size):
            cond, null = self._encoded(conditions, None, part)
            parts.append(step(cond, null, steps, scale, x[part]).numpy())
        return np.concatenate(parts)

    def log_likelihood(
        self,
        x,
        *,
        conditions=None,
        num_probes=None,
        dequantization=None,
        rtol=1e-5,
        atol=1e-5,
        seed=0,
        batch_size=256,
    ):
        """The log density log p(x) by the probability flow; see `kgen.log_likelihood`.

        Args:
            x: data `[N, *data_shape]`.
            conditions: of a conditional model the labels or prompts, one for each.
            num_probes: None for the exact trace, or the number of random vectors of its estimate.
            dequantization: None for the density of the values as they are; `"uniform"` for
                log p(x + noise) with even noise as wide as a bin; or a trained
                `VariationalDequantization` for log p(x + noise) - log q, with q the density of its
                noise in bins. Of the last two `kgen.metrics.bits_per_dim` with the width of a bin
                makes a bound on the probability of the grey levels.
            rtol: relative tolerance of the integration.
            atol: absolute tolerance.
            seed: of the vectors and of the noise.
            batch_size: examples at once.

        Returns:
            A float array `[N]`, in nats.
        """
        learned = isinstance(dequantization, VariationalDequantization)
        if not learned and dequantization not in (None, "uniform"):
            raise ValueError(
                "`dequantization` must be None, 'uniform' or a VariationalDequantization. "
                f"Received: {dequantization!r}."
            )
        if num_probes is not None:
            check_count("num_probes", num_probes)
        check_data("x", x, self.data_shape)
        x, seeds = tf.convert_to_tensor(x), split(as_seed(seed), 2)
        if dequantization == "uniform":
            x = likelihood.dequantize(x, seeds[0], self.grey_levels or 256)
        conditions = self._conditions("conditions", conditions, len(x))
        step = self.likelihood_step(solvers.DormandPrince(rtol, atol), num_probes)
        parts = []
        for part in slices(len(x), batch_size):
            cond, _ = self._encoded(conditions, None, part)
            values, log_q = x[part], 0.0
            if learned:
                values, log_q = dequantization.dequantize(values, fold_in(seeds[0], part.start))
            parts.append((step(values, cond, fold_in(seeds[1], part.start)) - log_q).numpy())
        return np.concatenate(parts)

    def density_terms(self, x, cond, seed):
        """A bound on -log p(x) of `x` as real values: its three terms, `[B]` nats.

        Args:
            x: `[B, *data_shape]`.
            cond: the encoded condition, or None.
            seed: an int32 pair.
        """
        return self._bound(x, cond, split(seed, 3), grey_levels=None)

    def _bound(self, x, cond, seeds, grey_levels, training=False):
        """The three terms, of grey levels or (None) of real values; `seeds` are three."""
        return {
            "reconstruction": reconstruction_term(self.process, x, seeds[2], grey_levels),
            "prior": prior_term(self.process, x),
            "denoising": self._denoising(x, cond, seeds[:2], "elbo", training),
        }

    def _denoising(self, x, cond, seeds, weighting, training):
        return denoising(
            self.network,
            self.process,
            self.prediction,
            x,
            cond,
            seeds,
            weighting=weighting,
            times=self.times if training else "stratified",
            levels=self.levels,
            training=training,
        )

    def export_functions(self, solver="dpm", num_probes=1, editing=False):
        """What a SavedModel offers: `generate`, also as `serving_default`, and `log_likelihood`.

        `generate(num_samples: int32, num_steps: int32, seed: int32[2]) -> images`, or of a model
        of classes `generate(labels: int32[B], num_steps, guidance_scale: float32, seed) -> images`,
        or of texts the same with `prompts: string[B]`;
        `log_likelihood(images[, labels or prompts], seed) -> nats`, by `num_probes` random vectors;
        and with `editing` `edit([labels or prompts,] images, mask, strength: float32, num_steps[,
        guidance_scale], seed) -> images`, as `kgen.models.diffusion_serving` says.
        """
        return diffusion_serving.diffusion(self, solver, num_probes, editing)

    def check_batch(self, batch):
        """Checks data before training and evaluation."""
        check_pictures(batch, self.data_shape, self.likelihood)

    def _data(self, images):
        """Examples as the model sees them: uint8 pictures are put into the range of the data."""
        images = np.asarray(images)
        if images.dtype == np.uint8:
            low, high = self.likelihood.low, self.likelihood.high
            images = (images / 255 * (high - low) + low).astype("float32")
        check_data("images", images, self.data_shape)
        return tf.constant(images, tf.float32)

    def _negatives(self, conditions, negative):
        if negative is None:
            return None
        if conditions is None:
            raise ValueError("`negative_prompts` needs a model with a conditioner.")
        return self._conditions("negative_prompts", negative, len(conditions), repeat=True)

    def _conditions(self, name, values, num=None, repeat=False):
        """Labels or prompts as an array, one for each example; None without a conditioner."""
        if self.conditioner is None:
            return None
        many = [values] if isinstance(values, str) or np.ndim(values) == 0 else list(values)
        if repeat and len(many) == 1:
            many = many * num
        kinds = {np.asarray(value).dtype.kind for value in many if np.ndim(value) == 0}
        if num not in (None, len(many)) or len(kinds) != 1 or not kinds <= set("iufUS"):
            raise ValueError(
                f"`{name}` must be labels or prompts, one for each example. "
                f"Received: {name}={values!r}" + (f" for {num} examples." if num else ".")
            )
        return np.array(many)

    def _encoded(self, conditions, negatives, part):
        """The encoded conditions of a part of the examples, and those to move away from."""
        if conditions is None:
            return None, None
        with self.averaged():
            cond = self.conditioner(conditions[part])
            if negatives is None:
                return cond, self.conditioner.null(len(conditions[part]))
            return cond, self.conditioner(negatives[part])
