"""The variational diffusion model: a hierarchical VAE whose encoder is fixed noise.

    z_t = alpha_t x + sigma_t eps,    l = log_snr(t)

    -log p(x) <= reconstruction + prior + denoising                    (`kgen.diffusion.bound`)

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l, cond)|^2 ] / dim(x)

Only the denoising term has something to learn, unless the schedule has. With w = 1 the loss is the
bound in nats per dimension; other weightings trade likelihood for the look of samples. `levels=T`
is the model with T latents, None the limit of infinitely many.

DDPM, improved DDPM, DDIM, VDM, EDM and flow matching are settings of the schedule, the scaling, the
prediction, the weighting and the solver; README has the table.

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 11-19.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 58, 99-105.
"""

import tensorflow as tf

from kgen.diffusion.bound import learned_schedule_terms
from kgen.diffusion.weighting import OF_LOG_SNR
from kgen.models.density_model import DensityModel
from kgen.models.generative_model import images_of
from kgen.serialization import serializable
from kgen.tensors import split


@serializable
class DiffusionModel(DensityModel):
    """Variational diffusion model of pictures or other arrays.

    Args:
        network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
        process: a `GaussianDiffusion`.
        data_shape: shape of an example, such as `(28, 28, 1)`; None takes that of the network.
        prediction: what the network's output means: `"x"`, `"eps"`, `"v"`, `"score"`, `"flow"` or
            `"edm"`.
        weighting: `"elbo"` for the likelihood, or another key of
            `kgen.diffusion.weighting.WEIGHTINGS`.
        levels: number of latents T, or None for continuous time.
        grey_levels: 256 for 8-bit pictures in [-1, 1], or None for real values.
        conditioner: None, or a `Conditioner` such as `kgen.conditioning.Labels`.
        cond_drop_rate: share of the examples that are shown the null condition in training.
        times: how training draws t, a key of `kgen.diffusion.times.TIME_SAMPLERS`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        default_solver: what `generate` takes for `solver`: a `kgen.solvers.Solver`, a name in
            `kgen.solvers.SOLVERS`, or a plan; None is `"dpm"`.
        default_guidance_scale: what it takes for `guidance_scale`; None is 1.
        published: None, or what the model keeps of the published one that it was opened from by
            `kgen.from_diffusers`, so that `kgen.to_diffusers` can write it.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is `x`, `[B, *data_shape]`; with a conditioner `{"images": x, "labels": int [B]}` or
    `{"images": x, "prompts": string [B]}`.

    Raises:
        ValueError: if an option has another value.

    Example:
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR
        >>> from kgen.networks import TimeMLP
        >>> process = GaussianDiffusion(LinearLogSNR())
        >>> model = DiffusionModel(TimeMLP(2, width=16), process, grey_levels=None)
        >>> model.generate(num_samples=3, num_steps=5, seed=0).shape
        (3, 2)
    """

    trains_schedule = True

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
        default_solver=None,
        default_guidance_scale=None,
        published=None,
        **kwargs,
    ):
        super().__init__(
            network,
            process,
            data_shape=data_shape,
            prediction=prediction,
            weighting=weighting,
            levels=levels,
            grey_levels=grey_levels,
            conditioner=conditioner,
            cond_drop_rate=cond_drop_rate,
            times=times,
            ema_decay=ema_decay,
            seed=seed,
            default_solver=default_solver,
            default_guidance_scale=default_guidance_scale,
            published=published,
            **kwargs,
        )
        if self.learned_schedule is not None:
            _check_learned(weighting, times, levels)

    @property
    def term_names(self):
        """The term of the loss, and that of a learned schedule."""
        return ("weighted_denoising",) + ("schedule",) * (self.learned_schedule is not None)

    @property
    def bound_names(self):
        """The terms of the bound."""
        return ("reconstruction", "prior", "denoising")

    def loss_terms(self, batch, training=False, seed=None):
        """`weighted_denoising`, for each number of the data, `[B]`.

        With a learned schedule also `schedule`, which is zero and only has a gradient
        (`kgen.diffusion.bound.learned_schedule_terms`).
        """
        seeds = split(self.seeds.next() if seed is None else seed, 3)
        x = images_of(batch)
        values = tf.cast(tf.size(x[0]), tf.float32)
        cond = self.encode_condition(batch, training, seeds[0])
        times = self.times if training and self.levels is None else self.bound_times
        options = {"weighting": self.weighting, "times": times, "training": training}
        if self.learned_schedule is not None:
            error, variance = learned_schedule_terms(self.denoiser, x, cond, seeds[1:], **options)
            return {"weighted_denoising": error / values, "schedule": variance}
        error = self.denoiser.loss(x, cond, seeds[1:], **options)
        return {"weighted_denoising": error / values}

    def bound_terms(self, batch, training=False, seed=None):
        """`reconstruction`, `prior` and `denoising`, `[B]` nats, whatever the weighting."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        cond = self.encode_condition(batch, False, seeds[0])
        return self._bound(images_of(batch), cond, seeds[1:], self.grey_levels, training)


def _check_learned(weighting, times, levels):
    """Checks that there is nothing in a bound that depends on the path of a schedule."""
    fits = weighting in OF_LOG_SNR and times in ("uniform", "stratified") and levels is None
    if not fits:
        raise ValueError(
            f"A learned schedule needs a `weighting` of {OF_LOG_SNR}, `times` of ('uniform', "
            "'stratified') and `levels=None`. "
            f"Received: weighting={weighting!r}, times={times!r}, levels={levels}."
        )
