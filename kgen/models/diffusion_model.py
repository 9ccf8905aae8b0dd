"""The variational diffusion model: a hierarchical VAE whose encoder is fixed noise.

    z_t = alpha_t x + sigma_t eps,    l = log_snr(t)

    -log p(x) <= reconstruction + prior + denoising                    (`kgen.diffusion.loss`)

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l, cond)|^2 ] / dim(x)

Only the denoising term has something to learn, unless the schedule has. With w = 1 the loss is the
bound in nats per dimension; other weightings trade likelihood for the look of samples. `levels=T`
is the model with T latents, None the limit of infinitely many.

DDPM, improved DDPM, VDM, flow matching are settings of the schedule, the scaling, the prediction
and the weighting; README has the table.

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 11-19.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 58, 99-105.
"""

import numpy as np
import tensorflow as tf

from kgen import likelihood, likelihoods, solvers
from kgen.checks import check_data, check_positive
from kgen.conditioning import drop_condition
from kgen.diffusion import denoiser
from kgen.diffusion.loss import denoising, prior_term, reconstruction_term
from kgen.diffusion.prediction import PREDICTION_TYPES
from kgen.diffusion.timesteps import TIME_SAMPLERS
from kgen.diffusion.weighting import WEIGHTINGS
from kgen.models import serving
from kgen.models.generative_model import GenerativeModel, entry, images_of
from kgen.models.sampling import draw
from kgen.serialization import serializable
from kgen.tensors import as_seed, split


@serializable
class DiffusionModel(GenerativeModel):
    """Variational diffusion model of pictures or other arrays.

    Args:
        network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
        process: a `GaussianDiffusion`.
        data_shape: shape of an example, such as `(28, 28, 1)`; None takes that of the network.
        prediction: what the network's output means: `"x"`, `"eps"`, `"v"`, `"score"` or `"flow"`.
        weighting: `"elbo"` for the likelihood, or another key of
            `kgen.diffusion.weighting.WEIGHTINGS`.
        levels: number of latents T, or None for continuous time.
        grey_levels: 256 for 8-bit pictures in [-1, 1], or None for real values.
        conditioner: None, or a `Conditioner` such as `kgen.conditioning.Labels`.
        cond_drop_rate: share of the examples that are shown the null condition in training.
        times: how training draws t, a key of `kgen.diffusion.timesteps.TIME_SAMPLERS`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is `x`, `[B, *data_shape]`; with a conditioner `{"images": x, "labels": int [B]}` or
    `{"images": x, "prompts": string [B]}`.

    Raises:
        ValueError: if an option is none of these.

    Example:
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR
        >>> from kgen.networks import TimeMLP
        >>> process = GaussianDiffusion(LinearLogSNR())
        >>> model = DiffusionModel(TimeMLP(2, width=16), process, grey_levels=None)
        >>> model.generate(3, num_steps=5, seed=0).shape
        (3, 2)
    """

    def __init__(
        self,
        network,
        process,
        *,
        data_shape=None,
        prediction="v",
        weighting="elbo",
        levels=None,
        grey_levels=256,
        conditioner=None,
        cond_drop_rate=0.1,
        times="stratified",
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        for name, value, table in (
            ("prediction", prediction, PREDICTION_TYPES),
            ("weighting", weighting, WEIGHTINGS),
            ("times", times, TIME_SAMPLERS),
        ):
            if value not in table:
                raise ValueError(
                    f"`{name}` must be one of {sorted(table)}. Received: {name}={value!r}."
                )
        if levels is not None:
            check_positive("levels", levels)
        if grey_levels is not None and grey_levels < 2:
            raise ValueError(f"`grey_levels` must be at least 2. Received: {grey_levels}.")
        if not 0 <= cond_drop_rate <= 1:
            raise ValueError(f"`cond_drop_rate` must be in [0, 1]. Received: {cond_drop_rate}.")
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
        self._sampler = denoiser(network, process, prediction)
        self._steps = {}
        self.built = True
        self.start_averaging()

    @property
    def term_names(self):
        """The one term of the loss."""
        return ("weighted_denoising",)

    @property
    def bound_names(self):
        """The terms of the bound."""
        return ("reconstruction", "prior", "denoising")

    def loss_terms(self, batch, training=False, seed=None):
        """`weighted_denoising`, for each number of the data, `[B]`."""
        seeds = split(self.seeds.next() if seed is None else seed, 3)
        x = images_of(batch)
        values = tf.cast(tf.size(x[0]), tf.float32)
        cond = self._condition(batch, training, seeds[0])
        error = self._denoising(x, cond, seeds[1:], self.weighting, training)
        return {"weighted_denoising": error / values}

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

    def bound_terms(self, batch, training=False, seed=None):
        """`reconstruction`, `prior` and `denoising`, `[B]` nats, whatever the weighting."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        x = images_of(batch)
        cond = self._condition(batch, False, seeds[0])
        return {
            "reconstruction": reconstruction_term(self.process, x, seeds[3], self.grey_levels),
            "prior": prior_term(self.process, x),
            "denoising": self._denoising(x, cond, seeds[1:3], "elbo", training),
        }

    def _condition(self, batch, training, seed):
        if self.conditioner is None:
            return None
        cond = self.conditioner(entry(batch, self.conditioner.batch_key), training=training)
        if training and self.cond_drop_rate:
            cond = drop_condition(cond, self.conditioner.null(1), self.cond_drop_rate, seed)
        return cond

    def denoise(self, z, t, cond=None):
        """x_hat, the estimate of E[x given z_t = z]: what solvers and likelihoods use."""
        return self._sampler(z, t, cond)

    def generate(
        self,
        num_samples,
        *,
        num_steps=50,
        solver="dpm",
        guidance_scale=1.0,
        seed=None,
        batch_size=256,
    ):
        """Draws examples.

        Args:
            num_samples: how many; of a conditional model the labels or prompts, one for each.
            num_steps: solver steps, at least 1; a change does not retrace.
            solver: a `kgen.solvers.Solver` or a name in `kgen.solvers.SOLVERS`.
            guidance_scale: 1 is the plain conditional model, more follows the condition more.
            seed: an integer for reproducible examples; each depends on it and its index alone.
            batch_size: examples drawn at once.

        Returns:
            uint8 `[N, H, W, C]` where the data are pictures, else float32.

        Raises:
            ValueError: if a number is not positive.
        """
        check_positive("num_steps", num_steps)
        conditions = None
        if self.conditioner is None:
            check_positive("num_samples", num_samples)
        else:
            conditions = np.atleast_1d(np.asarray(num_samples))
            num_samples = len(conditions)
        step, seed = self.generate_step(solver), as_seed(seed)
        steps, scale = tf.constant(num_steps), tf.constant(guidance_scale, tf.float32)
        parts = []
        for start in range(0, num_samples, batch_size):
            indices = tf.range(start, min(start + batch_size, num_samples))
            cond = negative = None
            if conditions is not None:
                with self.averaged():
                    cond = self.conditioner(conditions[start : start + batch_size])
                    negative = self.conditioner.null(len(indices))
            parts.append(step(cond, negative, steps, scale, seed, indices).numpy())
        return np.concatenate(parts)

    def generate_step(self, solver="dpm"):
        """The compiled function behind `generate` and the export, one for each solver."""
        solver = solvers.get(solver)
        if solver not in self._steps:

            @tf.function(reduce_retracing=True)
            def step(cond, negative, num_steps, guidance_scale, seed, indices):
                with self.averaged():
                    x = draw(
                        self._sampler,
                        self.process,
                        solver,
                        self.data_shape,
                        cond,
                        negative,
                        num_steps,
                        guidance_scale,
                        seed,
                        indices,
                    )
                return x if len(self.data_shape) != 3 else likelihoods.to_uint8(self.likelihood, x)

            self._steps[solver] = step
        return self._steps[solver]

    def log_likelihood(self, x, *, cond=None, num_probes=None, rtol=1e-5, atol=1e-5, seed=0):
        """The log density log p(x) by the probability flow; see `kgen.log_likelihood`.

        For 8-bit data this is the density of the values as they are; add uniform noise as wide as
        a bin to have a bound on the probability of the grey levels.
        """
        check_data("x", x, self.data_shape)
        with self.averaged():
            return likelihood.log_likelihood(
                lambda z, t: self._sampler(z, t, cond),
                self.process,
                x,
                num_probes=num_probes,
                rtol=rtol,
                atol=atol,
                seed=seed,
            ).numpy()

    def export_functions(self, solver="dpm"):
        """What a SavedModel offers: `generate`, which is also `serving_default`.

        `generate(num_samples: int32, num_steps: int32, seed: int32[2]) -> images`, or of a model
        of classes `generate(labels: int32[B], num_steps, guidance_scale: float32, seed) -> images`.
        """
        return serving.diffusion(self, solver), []

    def check_batch(self, batch):
        """Checks data before training and evaluation."""
        check_data("x", images_of(batch), self.data_shape, self.likelihood)
