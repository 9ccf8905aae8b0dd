"""Latent diffusion: a variational diffusion model of an autoencoder's latents, told a text.

    z_0 = encode(picture),   z_t = alpha_t z_0 + sigma_t eps,   cond = text encoder(prompt)

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l, cond)|^2 ] / dim(z),    l = log_snr(t)

This is the denoising term of the bound of a diffusion model, weighted, and divided by the number
of latent values. For a share of the examples the condition is the empty text, so that one network
is both the conditional and the unconditional model and can be guided (`kgen.diffusion.guidance`).

`generate` runs the solver from z_1 ~ process.prior to t = 0, takes x_hat there and decodes it.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, eq. 3.
  Salimans and Ho (2022), https://arxiv.org/abs/2202.00512 (v-prediction).
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598 (guidance).
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 100-108 (the three equivalent objectives).
"""

import keras
import numpy as np
import tensorflow as tf

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
from kgen.gaussian import Gaussian
from kgen.likelihoods import GaussianLikelihood
from kgen.models.diffusion_serving import text_to_image
from kgen.models.generative_model import GenerativeModel, entry, freeze
from kgen.models.latent_cache import LatentCache
from kgen.models.sampling import Sampler, Steps, check_given, share, slices
from kgen.serialization import serializable
from kgen.tensors import as_seed, split


@serializable
class LatentDiffusion(GenerativeModel):
    """Text-conditional diffusion model in the latent space of a frozen autoencoder.

    Args:
        autoencoder: a trained `KLAutoencoder`, with its latents measured; it is frozen.
        network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
        process: a `GaussianDiffusion`.
        conditioner: a `TextEncoder` or another `Conditioner`.
        prediction: what the network's output means: `"x"`, `"eps"`, `"v"`, `"score"` or `"flow"`.
        weighting: a key of `kgen.diffusion.weighting.WEIGHTINGS`; the default is the plain mean
            squared error of v.
        times: how training draws t, a key of `kgen.diffusion.timesteps.TIME_SAMPLERS`.
        cond_drop_rate: share of the examples that are shown the empty text in training.
        ema_decay: decay of the averaged weights, which evaluation, sampling and export use.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is `{"images": [B, H, W, C] in [-1, 1], "prompts": string [B]}`, or what
    `precompute(...)` yields.
    """

    def __init__(
        self,
        autoencoder,
        network,
        process,
        conditioner,
        *,
        prediction="v",
        weighting="snr_plus_one",
        times="stratified",
        cond_drop_rate=0.1,
        ema_decay=0.999,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        check_interval("cond_drop_rate", cond_drop_rate, "[0, 1]")
        check_one_of("prediction", prediction, PREDICTION_TYPES)
        check_one_of("times", times, TIME_SAMPLERS)
        check_one_of("weighting", weighting, WEIGHTINGS)
        if isinstance(process.schedule, keras.layers.Layer):
            raise ValueError("A learned schedule needs a DiffusionModel, whose bound trains it.")
        self.autoencoder = autoencoder
        freeze(autoencoder)
        self.network = network
        self.process = process
        self.conditioner = conditioner
        self.prediction = prediction
        self.weighting = weighting
        self.times = times
        self.cond_drop_rate = cond_drop_rate
        self.sampler = Sampler(
            denoiser(network, process, prediction), process, autoencoder.latent_shape
        )
        self.generate_step = Steps(self, self._draw)
        self.inversion_step = Steps(self, self.sampler.invert)
        self.built = True
        self.start_averaging()

    @property
    def term_names(self):
        """The one term of the loss."""
        return ("denoising",)

    def loss_terms(self, batch, training=False, seed=None):
        """Returns `{"denoising": [B]}`, with the weighting `"elbo"` in nats per latent value."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        latents = self._latents(batch, seeds[0])
        cond = self._condition(batch, training)
        if training and self.cond_drop_rate:
            null = self.conditioner.null(1)
            cond = drop_condition(cond, null, self.cond_drop_rate, seeds[1])
        error = denoising(
            self.network,
            self.process,
            self.prediction,
            latents,
            cond,
            seeds[2:],
            weighting=self.weighting,
            times=self.times,
            training=training,
        )
        return {"denoising": error / tf.cast(tf.size(latents[0]), tf.float32)}

    def _latents(self, batch, seed):
        if "moments" in batch:
            return self._standardise(Gaussian.from_moments(batch["moments"]).sample(seed))
        with self.autoencoder.averaged():
            return tf.stop_gradient(self.autoencoder.encode(entry(batch, "images"), seed))

    def _standardise(self, z):
        return (z - self.autoencoder.latent_mean) / self.autoencoder.latent_std

    def _condition(self, batch, training):
        if "condition" in batch:
            return batch["condition"]
        return self.conditioner(entry(batch, self.conditioner.batch_key), training=training)

    def precompute(self, dataset, directory, batch_size=64, seed=0):
        """Runs the frozen encoders once, so that training reads latents and embeddings from disk.

        Args:
            dataset: finite batches of pictures and prompts. Repeat it to have pictures with several
                of the captions that are drawn on the fly.
            directory: where the arrays go. A complete cache that is already there is used as it is.
            batch_size: of the batches that are returned.
            seed: of their order.

        Returns:
            A `tf.data.Dataset` for `fit`, shuffled anew every epoch.

        Raises:
            ValueError: if the conditioner is trainable, since its embeddings will change.
        """
        if self.conditioner.trainable:
            raise ValueError(
                "`precompute` needs a frozen conditioner. Received one with `trainable=True`."
            )

        @tf.function(reduce_retracing=True)
        def moments(images):
            with self.autoencoder.averaged():
                return self.autoencoder.encoder(images)

        def embed(prompts):
            cond = self.conditioner.embed(prompts, progress=False)
            self.conditioner.clear_cache()
            return cond

        if not LatentCache.exists(directory):
            LatentCache.write(directory, dataset, moments, embed)
        return LatentCache(directory).dataset(batch_size, seed=seed)

    def generate(
        self,
        prompts,
        num_steps=20,
        solver="dpm",
        guidance_scale=3.0,
        negative_prompts=None,
        seed=None,
        batch_size=32,
        *,
        guidance=None,
        noise=None,
        images=None,
        strength=None,
        mask=None,
    ):
        """Makes a picture for each prompt, from noise or from another picture.

        Args:
            prompts: a string, or a list of B strings.
            num_steps: solver steps, at least 1; a change does not retrace.
            solver: a `kgen.solvers.Solver` or a name in `kgen.solvers.SOLVERS`.
            guidance_scale: 1 is the plain conditional model, more follows the text more closely.
            negative_prompts: None, or a string or B strings to move away from.
            seed: an integer for reproducible pictures; picture i depends on it and on i alone.
            batch_size: pictures made at once.
            guidance: None for classifier-free guidance, or another function of that form; see
                `kgen.diffusion.guidance`.
            noise: None, or z at t = 1 to begin from, `[B, *latent_shape]`, such as of `invert`.
            images: None, or pictures `[B, H, W, C]` to begin from, uint8 or in [-1, 1].
            strength: with `images`, the time in (0, 1] to begin from: 1 keeps nothing of them.
                None is 0.6, or 1 with a mask.
            mask: with `images`, 1 where to paint and 0 where to keep them, `[B or 1, H, W, 1]`.

        Returns:
            A uint8 array `[B, H, W, 3]`.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt, an argument is out of range, or arguments do not fit
                together.
        """
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        prompts = _strings("prompts", prompts)
        negative = _strings(
            "negative_prompts", "" if negative_prompts is None else negative_prompts
        )
        if len(negative) == 1:
            negative = negative * len(prompts)
        if len(negative) != len(prompts):
            raise ValueError(
                "`negative_prompts` must be one string or as many as `prompts`. "
                f"Received: {len(negative)} for {len(prompts)} prompts."
            )
        given = check_given(
            len(prompts), self.autoencoder.latent_shape, noise, images, strength, mask
        )
        if images is not None:
            images = self._pictures(images)
        step, seed = self.generate_step(solver, guidance), as_seed(seed)
        results = []
        for part in slices(len(prompts), batch_size):
            begin = share(given, part)
            if images is not None:
                begin |= self.begin(images[part], begin.get("mask"))
            result = step(
                self.conditioner(prompts[part]),
                self.conditioner(negative[part]),
                tf.constant(num_steps, tf.int32),
                tf.constant(guidance_scale, tf.float32),
                seed,
                tf.range(part.start, part.stop),
                begin,
            )
            if mask is not None:
                result = self.keep(images[part], given["mask"][part], result)
            results.append(result.numpy())
        return np.concatenate(results)

    def invert(
        self, images, prompts, *, num_steps=50, solver="ddim", guidance_scale=1.0, batch_size=32
    ):
        """Finds the noise from which `generate` makes given pictures.

        Args:
            images: pictures `[B, H, W, C]`, uint8 or in [-1, 1].
            prompts: a string, or a list of B strings, that say what is on them.
            num_steps: solver steps; many, since the way back repeats the errors of the way there.
            solver: a deterministic `kgen.solvers.Solver`, or its name.
            guidance_scale: as of `generate`; inversion is exact only near 1.
            batch_size: pictures at once.

        Returns:
            float32 `[B, *latent_shape]`, the `noise` of `generate`.
        """
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        images, prompts = self._pictures(images), _strings("prompts", prompts)
        if len(prompts) == 1:
            prompts = prompts * len(images)
        if len(prompts) != len(images):
            raise ValueError(
                "`prompts` must be one string or as many as `images`. "
                f"Received: {len(prompts)} for {len(images)} images."
            )
        step = self.inversion_step(solver)
        steps, scale = tf.constant(num_steps), tf.constant(guidance_scale, tf.float32)
        parts = []
        for part in slices(len(images), batch_size):
            cond, x = self.conditioner(prompts[part]), self._encode(images[part])
            null = self.conditioner.null(len(x))
            parts.append(step(cond, null, steps, scale, x).numpy())
        return np.concatenate(parts)

    def begin(self, images, mask=None):
        """What sampling begins from: latents of pictures and a mask of latents, by name."""
        given = {"x": self._encode(images)}
        if mask is not None:
            factor = mask.shape[1] // self.autoencoder.latent_shape[0]
            # 1 where a pixel of a latent is to be painted.
            given["mask"] = tf.nn.max_pool2d(mask, factor, factor, "VALID")
        return given

    def keep(self, images, mask, drawn):
        """Drawn pictures, uint8, with what is not masked as it was, to the pixel."""
        drawn = mask * tf.cast(drawn, tf.float32) + (1 - mask) * to_uint8(images)
        return tf.cast(tf.round(drawn), tf.uint8)

    def export_functions(self, inputs="prompts", solver="dpm", editing=False):
        """What a SavedModel of the model offers; see `diffusion_serving.text_to_image`."""
        return text_to_image(self, inputs, solver, editing)

    def check_batch(self, batch):
        """Checks pictures before training and evaluation; what is precomputed is taken as it is."""
        if not isinstance(batch, dict) or "moments" not in batch:
            check_pictures(batch, self.autoencoder.data_shape, GaussianLikelihood())

    def _draw(self, *arguments):
        z = self.sampler.draw(*arguments)
        with self.autoencoder.averaged():
            return tf.cast(to_uint8(self.autoencoder.decode(z)), tf.uint8)

    def _pictures(self, images):
        """Pictures in [-1, 1] from uint8, or as they are."""
        images = np.asarray(images)
        if images.dtype == np.uint8:
            images = (images / 127.5 - 1).astype("float32")
        check_data("images", images, self.autoencoder.data_shape)
        return tf.constant(images, tf.float32)

    def _encode(self, images):
        with self.autoencoder.averaged():
            return self.autoencoder.encode(images)


def to_uint8(images):
    """Pictures in [-1, 1] as the numbers 0 to 255, not yet cast."""
    return tf.round(tf.clip_by_value((images + 1) * 127.5, 0, 255))


def _strings(name, value):
    """A list of strings, from a string or a list, tuple or array of them."""
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError(f"`{name}` must be a string or a list of strings. Received: {value!r}.")
    value = list(value)
    if not value:
        raise ValueError(f"`{name}` must have at least one string. Received: an empty list.")
    for item in value:
        if not isinstance(item, str):
            raise TypeError(
                f"`{name}` must be a string or a list of strings. Received an item: {item!r}."
            )
    return value
