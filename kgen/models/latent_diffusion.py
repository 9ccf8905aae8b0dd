"""Latent diffusion: a variational diffusion model of an autoencoder's latents, such as of text.

    z_0 = encode(picture),   z_t = alpha_t z_0 + sigma_t eps,   cond = text encoder(prompt)

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l, cond)|^2 ] / dim(z),    l = log_snr(t)

This is the denoising term of the bound of a diffusion model, weighted, and divided by the number
of latent values. For a share of the examples the condition is the empty text, so that one network
is both the conditional and the unconditional model and can be guided (`kgen.diffusion.guidance`).
The condition may also be a class or another one, or there may be none.

`generate` runs the solver from z_1 ~ process.prior to t = 0, takes x_hat there and decodes it.

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, eq. 3.
  Salimans and Ho (2022), https://arxiv.org/abs/2202.00512 (v-prediction).
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598 (guidance).
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 100-108 (the three equivalent objectives).
"""

import math
import warnings

import tensorflow as tf

from kgen.gaussian import Gaussian
from kgen.layer_tree import freeze
from kgen.likelihoods import GaussianLikelihood, to_uint8
from kgen.models.denoiser_model import DenoiserModel, check_size
from kgen.models.generative_model import images_of
from kgen.serialization import serializable
from kgen.tensors import fingerprint, split
from kgen.training.data import first_batch, split_weights
from kgen.training.latent_cache import LatentCache

LARGE = 2**18  # values of a picture from which on pictures are encoded and decoded one by one


@serializable
class LatentDiffusion(DenoiserModel):
    """Diffusion model, of texts in general, in the latent space of a frozen autoencoder.

    Args:
        autoencoder: a trained `KLAutoencoder`, with its latents measured; it is frozen.
        network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
        process: a `GaussianDiffusion`.
        conditioner: a `TextEncoder` or another `Conditioner`, or None.
        prediction: what the network's output means: `"x"`, `"eps"`, `"v"`, `"score"`, `"flow"` or
            `"edm_unit"`.
        weighting: a key of `kgen.diffusion.weighting.WEIGHTINGS`; the default is the plain mean
            squared error of v.
        times: how training draws t, a key of `kgen.diffusion.times.TIME_SAMPLERS`.
        cond_drop_rate: share of the examples that are shown the empty text in training.
        ema_decay: decay of the averaged weights, which evaluation, sampling and export use.
        seed: integer seed of all randomness in training, or None.
        default_solver: what `generate` takes for `solver`: a `kgen.solvers.Solver`, a name in
            `kgen.solvers.SOLVERS`, or a plan; None is `"dpm"`.
        default_guidance_scale: what it takes for `guidance_scale`; None is 3.
        published: None, or what the model keeps of the published one that it was opened from by
            `kgen.from_diffusers`, so that `kgen.to_diffusers` can write it.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is `{"images": [B, H, W, C] in [-1, 1], "prompts": string [B]}`, with `Labels` instead
    `"labels": int [B]`, without a conditioner the pictures alone; or what `precompute(...)` yields.

    `generate` guides by default (`guidance_scale=3`), since unguided samples are not what a person
    who types a sentence wants to see.
    """

    default_num_steps = 20
    default_guidance_scale = 3.0
    default_batch_size = 32

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
        default_solver=None,
        default_guidance_scale=None,
        published=None,
        **kwargs,
    ):
        super().__init__(
            weighting=weighting,
            times=times,
            cond_drop_rate=cond_drop_rate,
            ema_decay=ema_decay,
            seed=seed,
            default_solver=default_solver,
            default_guidance_scale=default_guidance_scale,
            published=published,
            **kwargs,
        )
        self.autoencoder = autoencoder
        freeze(autoencoder)
        self.data_shape = autoencoder.data_shape
        self.likelihood = GaussianLikelihood()
        for option, value in (("prediction", prediction), ("weighting", weighting)):
            if value == "edm":
                warnings.warn(
                    f'`{option}="edm"` reckons with data of standard deviation 0.5, and latents '
                    f'have 1: use {option}="edm_unit". Received: {option}="edm".',
                    stacklevel=3,
                )
        self.own_denoiser(network, process, prediction, conditioner, autoencoder.latent_shape)

    @property
    def term_names(self):
        """The one term of the loss."""
        return ("denoising",)

    def loss_terms(self, batch, training=False, seed=None):
        """Returns `{"denoising": [B]}`, with the weighting `"elbo"` in nats per latent value."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        z = self._latents(batch, seeds[0])
        cond = self.encode_condition(batch, training, seeds[1])
        times = self.times if training else "stratified"
        error = self.denoiser.loss(
            z, cond, seeds[2:], weighting=self.weighting, times=times, training=training
        )
        return {"denoising": error / tf.cast(tf.size(z[0]), tf.float32)}

    def _latents(self, batch, seed):
        if _precomputed(batch):
            z = Gaussian.from_moments(batch["moments"]).sample(seed)
            return (z - self.autoencoder.latent_mean) / self.autoencoder.latent_std
        with self.autoencoder.averaged():
            return tf.stop_gradient(self.autoencoder.encode(images_of(batch), seed))

    def precompute(self, dataset, directory, batch_size=64, seed=0):
        """Runs the frozen encoders once, so that training reads latents and conditions from disk.

        What a conditioner that is trained reads is written instead of its output, which changes.

        Args:
            dataset: finite batches for `fit`. Repeat it to have pictures with several of the
                captions that are drawn on the fly.
            directory: where the arrays go. A complete cache of the same encoders and data that is
                already there is used as it is.
            batch_size: of the batches that are returned.
            seed: of their order.

        Returns:
            A `tf.data.Dataset` for `fit`, shuffled anew every epoch.

        Raises:
            ValueError: if the data are not what the model learns from, or the cache is of other
                encoders or data.
        """
        conditioner = self.conditioner

        @tf.function(reduce_retracing=True)
        def moments(images):
            with self.autoencoder.averaged():
                return tf.cast(self.autoencoder.encoder(images), tf.float32)

        def encode(values):
            if conditioner.changes:
                return conditioner.as_batch(conditioner.prepare(values))
            return {"condition": conditioner.embed(values, progress=False)}

        def read(batch):
            batch, weights = split_weights(batch, self.target_key)
            values = None if conditioner is None else conditioner.values_of(batch)
            return images_of(batch), values, weights

        source = self._encoders()
        if not LatentCache.exists(directory):
            first, _ = split_weights(first_batch(dataset), self.target_key)
            self.check_batch(first)
            LatentCache.write(directory, dataset, read, moments, conditioner and encode, source)
            if conditioner is not None:
                conditioner.clear_cache()
        return LatentCache(directory, source, dataset).dataset(batch_size, seed=seed)

    def _encoders(self):
        """The sha256 of the autoencoder's encoder and, if there is one, that of the conditioner."""
        averages = {id(v): average for v, average in self.autoencoder.averages.pairs()}
        weights = [averages.get(id(v), v) for v in self.autoencoder.encoder.weights]
        encoders = fingerprint(weights)
        if self.conditioner is None or self.conditioner.changes:
            return encoders
        return encoders + self.conditioner.fingerprint()

    @property
    def factor(self):
        """How many pixels along one axis become one position of the latents."""
        return self.data_shape[0] // self.autoencoder.latent_shape[0]

    def shapes_of(self, size):
        """As of `DenoiserModel`; sizes are multiples of `factor`.

        Raises:
            ValueError: if the model cannot draw pictures of that size.
        """
        if size is None:
            return super().shapes_of(size)
        check_size(size, self.data_shape)
        if any(number % self.factor for number in size):
            raise ValueError(f"`size` must be multiples of {self.factor}. Received: size={size}.")
        latent, channels = [n // self.factor for n in size], self.autoencoder.latent_shape[-1]
        super().shapes_of(latent)
        return (*size, self.data_shape[-1]), (*latent, channels)

    def to_z(self, given):
        """Returns the latents of given examples, with the mask at their size."""
        if "x" not in given:
            return given
        x = given["x"]
        code = [*(-(-n // self.factor) for n in x.shape[1:-1]), self.autoencoder.latent_shape[-1]]
        with self.autoencoder.averaged():
            given = {**given, "x": _in_turn(self.autoencoder.encode, x, code, tf.float32)}
        if "mask" in given:
            factor = self.factor
            # 1 where a pixel of a latent is to be painted.
            given["mask"] = tf.nn.max_pool2d(given["mask"], factor, factor, "VALID")
        return given

    def to_data(self, z, given):
        """Returns the decoded pictures, uint8; what a mask keeps is kept to the pixel."""
        shape = self.data_shape  # padded, perhaps, by the autoencoder
        if z.shape[1:] != self.autoencoder.latent_shape:
            shape = [*(n * self.factor for n in z.shape[1:-1]), shape[-1]]

        def decode(z):
            return to_uint8(self.likelihood, self.autoencoder.decode(z))

        with self.autoencoder.averaged():
            images = _in_turn(decode, z, shape, tf.uint8)
        if "mask" not in given:
            return images
        known, mask = to_uint8(self.likelihood, given["x"]), given["mask"]
        mixed = mask * tf.cast(images, tf.float32) + (1 - mask) * tf.cast(known, tf.float32)
        return tf.cast(tf.round(mixed), tf.uint8)

    def export_functions(self, solver=None, **options):
        """What a SavedModel offers: that of `kgen.serving.denoising`, `generate_png` and
        `generate_png_with_seeds`.

        The options are those of `kgen.serving.denoising.sampling`.
        """
        from kgen.serving import denoising as serving

        functions, resources = serving.sampling(self, solver, **options)
        functions["generate_png"] = serving.as_png(functions["serving_default"])
        with_seeds = next(f for n, f in functions.items() if n.startswith("generate_with_seeds"))
        functions["generate_png_with_seeds"] = serving.as_png(with_seeds)
        return functions, resources

    def part_functions(self, solver=None, size=None):
        """As of `DenoiserModel`, with the decoder."""
        from kgen.serving.parts import functions

        parts, said = super().part_functions(solver, size)
        _, shape = self.shapes_of(size)
        return {**parts, "decoder": functions.decoder_part(self.autoencoder, shape)}, said

    def check_batch(self, batch):
        """Checks pictures before training and evaluation; what is precomputed is taken as it is."""
        if not _precomputed(batch):
            super().check_batch(batch)

    def as_batch(self, data):
        """As of `GenerativeModel`; what is precomputed is taken as it is."""
        batch, weights = split_weights(data, self.target_key)
        if _precomputed(batch):
            return batch, weights
        return super().as_batch(data)


def _in_turn(function, values, shape, dtype):
    """A function of examples; where pictures are large, of one after the other.

    Args:
        function: of `values`.
        values: `[B, ...]`.
        shape: of one result.
        dtype: of the results.
    """
    if max(math.prod(values.shape[1:]), math.prod(shape)) < LARGE:
        return function(values)
    return tf.map_fn(
        lambda value: function(value[tf.newaxis])[0],
        values,
        parallel_iterations=1,
        fn_output_signature=tf.TensorSpec(shape, dtype),
    )


def _precomputed(batch):
    return isinstance(batch, dict) and "moments" in batch
