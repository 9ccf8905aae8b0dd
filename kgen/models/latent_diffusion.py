"""Latent diffusion: a variational diffusion model of an autoencoder's latents, told a text.

    z_0 = encode(picture),   z_t = alpha_t z_0 + sigma_t eps,   cond = text encoder(prompt)

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l, cond)|^2 ] / dim(z),    l = log_snr(t)

This is the denoising term of the bound of a diffusion model, weighted, and divided by the number
of latent values. For a share of the examples the condition is the empty text, so that one network
is both the conditional and the unconditional model and can be guided (`kgen.diffusion.guidance`).
Instead of a text it may be told a class, or nothing.

`generate` runs the solver from z_1 ~ process.prior to t = 0, takes x_hat there and decodes it.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, eq. 3.
  Salimans and Ho (2022), https://arxiv.org/abs/2202.00512 (v-prediction).
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598 (guidance).
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 100-108 (the three equivalent objectives).
"""

import tensorflow as tf

from kgen.gaussian import Gaussian
from kgen.likelihoods import GaussianLikelihood, to_uint8
from kgen.models.denoising_model import DenoisingModel
from kgen.models.generative_model import freeze, images_of
from kgen.serialization import serializable
from kgen.tensors import fingerprint, split
from kgen.training.data import first_batch
from kgen.training.latent_cache import LatentCache


@serializable
class LatentDiffusion(DenoisingModel):
    """Diffusion model, of texts in general, in the latent space of a frozen autoencoder.

    Args:
        autoencoder: a trained `KLAutoencoder`, with its latents measured; it is frozen.
        network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
        process: a `GaussianDiffusion`.
        conditioner: a `TextEncoder` or another `Conditioner`, or None.
        prediction: what the network's output means: `"x"`, `"eps"`, `"v"`, `"score"`, `"flow"` or
            `"edm"`.
        weighting: a key of `kgen.diffusion.weighting.WEIGHTINGS`; the default is the plain mean
            squared error of v.
        times: how training draws t, a key of `kgen.diffusion.timesteps.TIME_SAMPLERS`.
        cond_drop_rate: share of the examples that are shown the empty text in training.
        ema_decay: decay of the averaged weights, which evaluation, sampling and export use.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is `{"images": [B, H, W, C] in [-1, 1], "prompts": string [B]}`, with `Labels` instead
    `"labels": int [B]`, without a conditioner the pictures alone; or what `precompute(...)` yields.
    """

    def __init__(
        self,
        autoencoder,
        network,
        process,
        conditioner=None,
        *,
        prediction="v",
        weighting="snr_plus_one",
        times="stratified",
        cond_drop_rate=0.1,
        ema_decay=0.999,
        seed=None,
        **kwargs,
    ):
        super().__init__(
            prediction=prediction,
            weighting=weighting,
            times=times,
            cond_drop_rate=cond_drop_rate,
            ema_decay=ema_decay,
            seed=seed,
            **kwargs,
        )
        self.autoencoder = autoencoder
        freeze(autoencoder)
        self.data_shape = autoencoder.data_shape
        self.likelihood = GaussianLikelihood()
        self.start_denoising(network, process, conditioner, autoencoder.latent_shape)

    @property
    def term_names(self):
        """The one term of the loss."""
        return ("denoising",)

    def loss_terms(self, batch, training=False, seed=None):
        """Returns `{"denoising": [B]}`, with the weighting `"elbo"` in nats per latent value."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        z = self._latents(batch, seeds[0])
        cond = self.condition(batch, training, seeds[1])
        error = self._denoising(z, cond, seeds[2:], self.weighting, training)
        return {"denoising": error / tf.cast(tf.size(z[0]), tf.float32)}

    def _latents(self, batch, seed):
        if _precomputed(batch):
            z = Gaussian.from_moments(batch["moments"]).sample(seed)
            return (z - self.autoencoder.latent_mean) / self.autoencoder.latent_std
        with self.autoencoder.averaged():
            return tf.stop_gradient(self.autoencoder.encode(images_of(batch), seed))

    def precompute(self, dataset, directory, batch_size=64, seed=0):
        """Runs the frozen encoders once, so that training reads latents and embeddings from disk.

        Args:
            dataset: finite batches of pictures and prompts. Repeat it to have pictures with several
                of the captions that are drawn on the fly.
            directory: where the arrays go. A complete cache of the same encoders that is already
                there is used as it is, whatever `dataset` yields now.
            batch_size: of the batches that are returned.
            seed: of their order.

        Returns:
            A `tf.data.Dataset` for `fit`, shuffled anew every epoch.

        Raises:
            ValueError: if the conditioner is trainable, since its embeddings will change, or takes
                no texts; if the data are not what the model learns from; if the cache is of others.
        """
        if self.conditioner is not None and self.conditioner.batch_key != "prompts":
            raise ValueError(
                "`precompute` is for texts: of another conditioner `fit` the data set itself. "
                f"Received: one of type {type(self.conditioner).__name__}."
            )
        if self.conditioner is not None and self.conditioner.trainable:
            raise ValueError("`precompute` needs a frozen conditioner. Received a trainable one.")

        @tf.function(reduce_retracing=True)
        def moments(images):
            with self.autoencoder.averaged():
                return tf.cast(self.autoencoder.encoder(images), tf.float32)

        def embed(prompts):
            cond = self.conditioner.embed(prompts, progress=False)
            self.conditioner.clear_cache()
            return cond

        source = self._encoders()
        if not LatentCache.exists(directory):
            self.check_batch(first_batch(dataset))
            LatentCache.write(directory, dataset, moments, self.conditioner and embed, source)
        return LatentCache(directory, source).dataset(batch_size, seed=seed)

    def _encoders(self):
        """The sha256 of the autoencoder's encoder and, if there is one, that of the conditioner."""
        averages = {id(v): average for v, average in self.autoencoder.averages()}
        weights = [averages.get(id(v), v) for v in self.autoencoder.encoder.weights]
        told = "" if self.conditioner is None else self.conditioner.fingerprint()
        return fingerprint(weights) + told

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
        verbose=0,
    ):
        """Makes a picture for each prompt, from noise or from another picture.

        Args:
            prompts: a string, or B strings; or labels; or how many, without a conditioner.
            num_steps: solver steps, at least 1; a change does not retrace.
            solver: a `kgen.solvers.Solver` or a name in `kgen.solvers.SOLVERS`.
            guidance_scale: 1 is the plain conditional model, more follows the text more closely.
            negative_prompts: None, or a string or B strings to move away from.
            seed: an integer for reproducible pictures; picture i depends on it and on i alone.
            batch_size: pictures made at once.
            guidance: as of `DiffusionModel.generate`, and so are the others.
            verbose: 1 for a progress bar, 0 for silence.
            noise: None, or z at t = 1 to begin from, `[B, *latent_shape]`, such as of `invert`.
            images: None, or pictures `[B, H, W, C]` to begin from, uint8 or in [-1, 1].
            strength: with `images`, the time in (0, 1] to begin from.
            mask: with `images`, 1 where to paint and 0 where to keep them, to the pixel.

        Returns:
            A uint8 array `[B, H, W, C]`.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if an argument is out of range, or arguments do not fit together.
        """
        return super().generate(
            prompts,
            num_steps=num_steps,
            solver=solver,
            guidance_scale=guidance_scale,
            guidance=guidance,
            negative_prompts=negative_prompts,
            noise=noise,
            images=images,
            strength=strength,
            mask=mask,
            seed=seed,
            batch_size=batch_size,
            verbose=verbose,
        )

    def invert(
        self,
        images,
        prompts=None,
        *,
        num_steps=50,
        solver="ddim",
        guidance_scale=1.0,
        batch_size=32,
    ):
        """As `DiffusionModel.invert`; the prompts or labels are one for all pictures or for each.

        Returns:
            float32 `[B, *latent_shape]`, the `noise` of `generate`.
        """
        return super().invert(
            images,
            prompts,
            num_steps=num_steps,
            solver=solver,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
        )

    def _begin(self, given):
        if "x" not in given:
            return given
        with self.autoencoder.averaged():
            given = {**given, "x": self.autoencoder.encode(given["x"])}
        if "mask" in given:
            factor = self.data_shape[0] // self.autoencoder.latent_shape[0]
            # 1 where a pixel of a latent is to be painted.
            given["mask"] = tf.nn.max_pool2d(given["mask"], factor, factor, "VALID")
        return given

    def _finish(self, z, given):
        with self.autoencoder.averaged():
            images = to_uint8(self.likelihood, self.autoencoder.decode(z))
        if "mask" not in given:
            return images
        # What is not masked stays as it was, to the pixel.
        known, mask = to_uint8(self.likelihood, given["x"]), given["mask"]
        mixed = mask * tf.cast(images, tf.float32) + (1 - mask) * tf.cast(known, tf.float32)
        return tf.cast(tf.round(mixed), tf.uint8)

    def export_functions(self, inputs="prompts", solver="dpm", **options):
        """What a SavedModel offers: that of `kgen.serving.denoising`, and `generate_png`.

        The options are `editing`, `guidance` and `negatives` of `serving.sampling`.
        """
        from kgen.serving import denoising as serving

        functions, resources = serving.sampling(self, solver, inputs, **options)
        functions["generate_png"] = serving.as_png(functions["serving_default"])
        return functions, resources

    def check_batch(self, batch):
        """Checks pictures before training and evaluation; what is precomputed is taken as it is."""
        if not _precomputed(batch):
            super().check_batch(batch)


def _precomputed(batch):
    return isinstance(batch, dict) and "moments" in batch
