"""Latent diffusion: a variational diffusion model of the latents of an autoencoder.

    z_0 = encode(picture),   z_t = alpha_t z_0 + sigma_t eps,   cond = text encoder(prompt)

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l, cond)|^2 ] / dim(z),    l = log_snr(t)

This is the denoising term of the bound of a diffusion model, weighted, and divided by the number of
latent values. In training the condition is replaced by the empty text with probability
`cond_drop_rate`, so that one network is both the conditional and the unconditional model, as
guidance needs them (`kgen.diffusion.guidance`). The condition may also be another one, such as a
class, or there may be none.

`generate` runs the solver from z_1 ~ process.prior to t = 0 and decodes x_hat(z_0, 0).

References:
  Rombach et al. (2022), https://arxiv.org/abs/2112.10752, eq. 3.
  Salimans and Ho (2022), https://arxiv.org/abs/2202.00512 (v-prediction).
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598 (guidance).
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 100-108 (the three equivalent objectives).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kgen.conditioning import Conditioner
from kgen.diffusion import GaussianDiffusion
from kgen.gaussian import Gaussian
from kgen.layer_tree import freeze
from kgen.likelihoods import GaussianLikelihood, to_uint8
from kgen.models.denoiser_model import DenoiserModel
from kgen.models.denoising_checks import check_size
from kgen.models.generative_model import images_of
from kgen.sampling.plan import Plan
from kgen.serialization import serializable
from kgen.solvers import Solver
from kgen.tensors import fingerprint, split
from kgen.training.data import first_batch, split_weights
from kgen.training.latent_cache import LatentCache
from kgen.types import Batch, Network, Path, Prediction, Shape, SolverName, TimeSampler, Weighting

LARGE = 2**18  # pictures with at least this many values are encoded and decoded one at a time


@serializable
class LatentDiffusion(DenoiserModel):
    """Diffusion model in the latent space of a frozen autoencoder, usually conditional on text.

    Args:
        autoencoder: a trained `KLAutoencoder` whose latents have been measured
            (`measure_latents`). It is frozen.
        network: called as `network(z, log_snr, cond, training)`; returns the shape of `z`.
        process: a `GaussianDiffusion`.
        conditioner: a `TextEncoder` or another `Conditioner`, or None.
        prediction: what the network predicts: `"x"`, `"eps"`, `"v"`, `"score"`, `"flow"` or
            `"edm_unit"`.
        weighting: a key of `kgen.diffusion.weighting.WEIGHTINGS`; the default is the mean squared
            error of v.
        times: distribution of t in training, a key of `kgen.diffusion.times.TIME_SAMPLERS`.
        cond_drop_rate: probability in training that the condition of an example is replaced by the
            null condition, such as the empty text.
        ema_decay: decay of the averaged weights, which evaluation, sampling and export use, or
            None.
        seed: integer seed of all randomness in training, or None.
        default_solver: default `solver` of `generate`: a `kgen.solvers.Solver`, a name in
            `kgen.solvers.SOLVERS`, or a plan; None for `"dpm"`.
        default_guidance_scale: default `guidance_scale` of `generate`; None for 3.
        default_num_steps: default `num_steps` of `generate`; None for 20.
        published: None, or the `kgen.published.origin.Published` of a model that
            `kgen.from_diffusers` opened; `kgen.to_diffusers` needs it.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is `{"images": [B, H, W, C] in [-1, 1], "prompts": string [B]}`; with `Labels`,
    `"labels": int [B]` instead of the prompts; without a conditioner, the pictures alone; or a
    batch of the data set that `precompute` returns.

    `generate` uses guidance by default (`guidance_scale=3`), since samples without it follow a
    prompt only loosely.

    Raises:
        TypeError: if an option is not a number.
        ValueError: if an option is unknown or out of range, the schedule is learned, or the network
            is not compatible with the latents or the conditioner.
    """

    default_num_steps = 20
    default_guidance_scale = 3.0
    default_batch_size = 32

    def __init__(
        self,
        autoencoder: keras.Model,
        network: Network,
        process: GaussianDiffusion,
        conditioner: Conditioner | None = None,
        *,
        prediction: Prediction = "v",
        weighting: Weighting = "snr_plus_one",
        times: TimeSampler = "stratified",
        cond_drop_rate: float = 0.1,
        ema_decay: float | None = 0.999,
        seed: int | None = None,
        default_solver: Solver | Plan | SolverName | None = None,
        default_guidance_scale: float | None = None,
        default_num_steps: int | None = None,
        published: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            weighting=weighting,
            times=times,
            cond_drop_rate=cond_drop_rate,
            ema_decay=ema_decay,
            seed=seed,
            default_solver=default_solver,
            default_guidance_scale=default_guidance_scale,
            default_num_steps=default_num_steps,
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
                    f'`{option}="edm"` assumes data of standard deviation 0.5, but latents have 1: '
                    f'use {option}="edm_unit". Received: {option}="edm".',
                    stacklevel=3,
                )
        self.set_denoiser(network, process, prediction, conditioner, autoencoder.latent_shape)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        return ("denoising",)

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `denoising`, `[B]`; with the weighting `"elbo"`, in nats per latent value."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        z = self.latents_of(batch, seeds[0])
        cond = self.encode_condition(batch, training, seeds[1])
        times = self.times if training else "stratified"
        error = self.denoiser.loss(
            z, cond, seeds[2:], weighting=self.weighting, times=times, training=training
        )
        return {"denoising": error / tf.cast(tf.size(z[0]), tf.float32)}

    def latents_of(self, batch: Batch, seed: tf.Tensor) -> tf.Tensor:
        """Returns standardised samples of the latents of a batch, `[B, h, w, c]`."""
        if _precomputed(batch):
            z = Gaussian.from_moments(batch["moments"]).sample(seed)
            return (z - self.autoencoder.latent_mean) / self.autoencoder.latent_std
        with self.autoencoder.averaged():
            return tf.stop_gradient(self.autoencoder.encode(images_of(batch), seed))

    def precompute(
        self, dataset: tf.data.Dataset, directory: Path, batch_size: int = 64, seed: int = 0
    ) -> tf.data.Dataset:
        """Runs the frozen encoders once, so that training reads latents and conditions from disk.

        For a conditioner that is trained, the cache holds its inputs, since its outputs change.

        Args:
            dataset: finite batches for `fit`. If captions are drawn at random, repeat the data set,
                so that the cache holds each picture with several captions.
            directory: folder of the cache. A complete cache of the same encoders and data is
                reused.
            batch_size: size of the returned batches.
            seed: integer seed of the order of the examples.

        Returns:
            A `tf.data.Dataset` for `fit`, shuffled again in each epoch.

        Raises:
            TypeError: if the data have the wrong type.
            ValueError: if the data have the wrong shape or range, or `directory` holds a cache of
                other encoders or data; the message says what differs.
        """
        conditioner = self.conditioner

        @tf.function(reduce_retracing=True)
        def moments(images: tf.Tensor) -> tf.Tensor:
            with self.autoencoder.averaged():
                return tf.cast(self.autoencoder.encoder(images), tf.float32)

        def encode(values: Any) -> dict[str, Any]:
            if conditioner.changes:
                return conditioner.as_batch(conditioner.prepare(values))
            return {"condition": conditioner.embed(values, progress=False)}

        def read(batch: Any) -> tuple[tf.Tensor, Any, tf.Tensor | None]:
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

    def _encoders(self) -> str:
        """Returns the sha256 of the encoder and the fingerprint of a frozen conditioner."""
        averages = {id(v): average for v, average in self.autoencoder.averages.pairs()}
        weights = [averages.get(id(v), v) for v in self.autoencoder.encoder.weights]
        encoders = fingerprint(weights)
        if self.conditioner is None or self.conditioner.changes:
            return encoders
        return encoders + self.conditioner.fingerprint()

    @property
    def factor(self) -> int:
        """The downsampling factor: height of a picture over height of its latents."""
        return self.data_shape[0] // self.autoencoder.latent_shape[0]

    def shapes_of(self, size: Sequence[int] | None) -> tuple[Shape, Shape]:
        """Returns the shapes of a picture and of its latents.

        Args:
            size: `(height, width)`, multiples of `factor`, or None for the size of the training
                data.

        Raises:
            TypeError: if `size` does not hold numbers.
            ValueError: if the model cannot generate pictures of this size.
        """
        if size is None:
            return super().shapes_of(size)
        check_size(size, self.data_shape)
        if any(number % self.factor for number in size):
            raise ValueError(f"`size` must be multiples of {self.factor}. Received: size={size}.")
        latent, channels = [n // self.factor for n in size], self.autoencoder.latent_shape[-1]
        super().shapes_of(latent)
        return (*size, self.data_shape[-1]), (*latent, channels)

    def to_z(self, given: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encodes the examples of an editing run, and reduces the mask to the latents' size.

        Args:
            given: see `DenoiserModel.to_z`.
        """
        if "x" not in given:
            return given
        x = given["x"]
        code = [*(-(-n // self.factor) for n in x.shape[1:-1]), self.autoencoder.latent_shape[-1]]
        with self.autoencoder.averaged():
            given = {**given, "x": _map(self.autoencoder.encode, x, code, tf.float32)}
        if "mask" in given:
            factor = self.factor
            # A latent is generated if any of its pixels is.
            given["mask"] = tf.nn.max_pool2d(given["mask"], factor, factor, "VALID")
        return given

    def to_data(self, z: tf.Tensor, given: dict[str, tf.Tensor]) -> tf.Tensor:
        """Decodes latents to pictures, uint8; where the mask is 0, pixels are kept exactly.

        Args:
            z: latents `[B, h, w, c]`.
            given: see `DenoiserModel.to_data`.
        """
        shape = self.data_shape  # not always `factor` times the latents', if the encoder pads
        if z.shape[1:] != self.autoencoder.latent_shape:
            shape = [*(n * self.factor for n in z.shape[1:-1]), shape[-1]]

        def decode(z: tf.Tensor) -> tf.Tensor:
            return to_uint8(self.likelihood, self.autoencoder.decode(z))

        with self.autoencoder.averaged():
            images = _map(decode, z, shape, tf.uint8)
        if "mask" not in given:
            return images
        originals, mask = to_uint8(self.likelihood, given["x"]), given["mask"]
        mixed = mask * tf.cast(images, tf.float32) + (1 - mask) * tf.cast(originals, tf.float32)
        return tf.cast(tf.round(mixed), tf.uint8)

    def export_functions(
        self, solver: Solver | Plan | SolverName | None = None, **options: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """Returns the functions of a SavedModel, and the resources that they use.

        They are the functions of `kgen.serving.denoising.sampling`, `generate_png` and
        `generate_png_with_seeds`.

        Args:
            solver: the solver, its name or a plan; None for the default of the model.
            **options: options of `kgen.serving.denoising.sampling`.
        """
        from kgen.serving import denoising as serving

        functions, resources = serving.sampling(self, solver, **options)
        functions["generate_png"] = serving.as_png(functions["serving_default"])
        with_seeds = next(f for n, f in functions.items() if n.startswith("generate_with_seeds"))
        functions["generate_png_with_seeds"] = serving.as_png(with_seeds)
        return functions, resources

    def part_functions(
        self,
        solver: Solver | SolverName | None = None,
        size: Sequence[int] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the networks for other runtimes, with the decoder of the autoencoder.

        See `DenoiserModel.part_functions`.
        """
        from kgen.serving.parts import functions

        parts, described = super().part_functions(solver, size)
        _, shape = self.shapes_of(size)
        return {**parts, "decoder": functions.decoder_part(self.autoencoder, shape)}, described

    def check_batch(self, batch: Batch) -> None:
        """Validates a batch before training and evaluation, unless it is precomputed.

        Raises:
            TypeError: if the pictures or the condition have the wrong type.
            ValueError: if they have the wrong shape or range, or an entry is missing.
        """
        if not _precomputed(batch):
            super().check_batch(batch)

    def as_batch(self, data: Any) -> tuple[Batch, tf.Tensor | None]:
        """Splits a batch into inputs and example weights; precomputed batches are not checked."""
        batch, weights = split_weights(data, self.target_key)
        if _precomputed(batch):
            return batch, weights
        return super().as_batch(data)


def _map(
    function: Callable[[tf.Tensor], tf.Tensor],
    values: tf.Tensor,
    shape: Sequence[int],
    dtype: tf.DType,
) -> tf.Tensor:
    """Applies a function to a batch; to one example at a time if the pictures are large.

    Args:
        function: a function of a batch.
        values: `[B, ...]`.
        shape: shape of the result for one example.
        dtype: dtype of the results.
    """
    if max(math.prod(values.shape[1:]), math.prod(shape)) < LARGE:
        return function(values)
    return tf.map_fn(
        lambda value: function(value[tf.newaxis])[0],
        values,
        parallel_iterations=1,
        fn_output_signature=tf.TensorSpec(shape, dtype),
    )


def _precomputed(batch: Any) -> bool:
    """Returns whether a batch holds precomputed latents instead of pictures."""
    return isinstance(batch, dict) and "moments" in batch
