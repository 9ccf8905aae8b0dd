"""The variational diffusion model: a hierarchical VAE whose encoder is fixed noise.

    z_t = alpha_t x + sigma_t eps,    l = log_snr(t)

    -log p(x) <= reconstruction + prior + denoising                    (`kgen.diffusion.bound`)

    loss = 1/2 E_t[ w(l) (-dl/dt) |eps - eps_hat(z_t, l, cond)|^2 ] / dim(x)

Only the denoising term depends on the weights of the network; the other terms depend on the
schedule. With w = 1 the loss is the denoising term in nats per dimension; other weightings trade
likelihood for the quality of samples. `levels=T` is the model with T latents, `levels=None` its
limit for infinitely many.

DDPM, improved DDPM, DDIM, VDM, EDM and flow matching are choices of the schedule, the scaling, the
prediction, the weighting and the solver; station 5 of the documentation has a table.

References:
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 11-19.
  Luo (2022), https://arxiv.org/abs/2208.11970, eq. 58, 99-105.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kgen.conditioning import Conditioner
from kgen.diffusion import GaussianDiffusion
from kgen.diffusion.bound import learned_schedule_terms
from kgen.diffusion.weighting import OF_LOG_SNR
from kgen.models.density_model import DensityModel
from kgen.models.generative_model import images_of
from kgen.sampling.plan import Plan
from kgen.serialization import serializable
from kgen.solvers import Solver
from kgen.tensors import split
from kgen.types import Batch, Network, Prediction, SolverName, TimeSampler, Weighting


@serializable
class DiffusionModel(DensityModel):
    """Variational diffusion model of pictures or other arrays.

    Args:
        network: called as `network(z, log_snr, cond, training)`; returns the shape of `z`.
        process: a `GaussianDiffusion`.
        data_shape: shape of an example, such as `(28, 28, 1)`; None for that of the network's
            input.
        prediction: what the network predicts: `"x"`, `"eps"`, `"v"`, `"score"`, `"flow"` or
            `"edm"`.
        weighting: `"elbo"` for the likelihood, or another key of
            `kgen.diffusion.weighting.WEIGHTINGS`.
        levels: number of timesteps T, or None for continuous time.
        grey_levels: 256 for 8-bit pictures in [-1, 1], or None for real values.
        conditioner: None, or a `Conditioner` such as `kgen.conditioning.Labels`.
        cond_drop_rate: probability in training that the condition of an example is replaced by the
            null condition.
        times: distribution of t in training, a key of `kgen.diffusion.times.TIME_SAMPLERS`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        default_solver: default `solver` of `generate`: a `kgen.solvers.Solver`, a name in
            `kgen.solvers.SOLVERS`, or a plan; None for `"dpm"`.
        default_guidance_scale: default `guidance_scale` of `generate`; None for 1.
        default_num_steps: default `num_steps` of `generate`; None for 50.
        published: None, or the `kgen.published.origin.Published` of a model that
            `kgen.from_diffusers` opened; `kgen.to_diffusers` needs it.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is `x`, `[B, *data_shape]`; with a conditioner `{"images": x, KEY: values}` with the
    conditioner's `batch_key`: `"labels"` (int `[B]`), `"vectors"` (`[B, D]`), `"prompts"` (string
    `[B]`) and so on. `fit(x, values)` is the same.

    Raises:
        TypeError: if an option is not a number.
        ValueError: if an option is unknown or out of range, or options are not compatible.

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
        network: Network,
        process: GaussianDiffusion,
        *,
        data_shape: Sequence[int] | None = None,
        prediction: Prediction = "v",
        weighting: Weighting = "elbo",
        levels: int | None = None,
        grey_levels: int | None = 256,
        conditioner: Conditioner | None = None,
        cond_drop_rate: float = 0.1,
        times: TimeSampler = "stratified",
        ema_decay: float | None = None,
        seed: int | None = None,
        default_solver: Solver | Plan | SolverName | None = None,
        default_guidance_scale: float | None = None,
        default_num_steps: int | None = None,
        published: Any = None,
        **kwargs: Any,
    ) -> None:
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
            default_num_steps=default_num_steps,
            published=published,
            **kwargs,
        )
        if self.learned_schedule is not None:
            _check_learned(weighting, times, levels)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms: that of the denoiser and, if learned, that of the schedule."""
        return ("weighted_denoising",) + ("schedule",) * (self.learned_schedule is not None)

    @property
    def bound_names(self) -> tuple[str, ...]:
        """Names of the terms of the bound."""
        return ("reconstruction", "prior", "denoising")

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `weighted_denoising`, `[B]`, per dimension of the data.

        With a learned schedule also `schedule`, `[B]`, whose value is zero and whose gradient
        trains the schedule (`kgen.diffusion.bound.learned_schedule_terms`).
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

    def bound_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `reconstruction`, `prior` and `denoising`, `[B]`, in nats.

        They do not depend on the weighting of the loss.
        """
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        cond = self.encode_condition(batch, False, seeds[0])
        return self._bound(images_of(batch), cond, seeds[1:], self.grey_levels, training)


def _check_learned(weighting: Weighting, times: TimeSampler, levels: int | None) -> None:
    """Checks that the loss does not depend on the path of a learned schedule between its ends.

    Only then can the schedule be trained to lower the variance of the loss, by the options that
    `kgen.diffusion.bound.learned_schedule_terms` allows.

    Raises:
        ValueError: if the weighting, the times or the levels do not allow a learned schedule.
    """
    fits = weighting in OF_LOG_SNR and times in ("uniform", "stratified") and levels is None
    if not fits:
        raise ValueError(
            f"A learned schedule needs a `weighting` of {OF_LOG_SNR}, `times` of ('uniform', "
            "'stratified') and `levels=None`. "
            f"Received: weighting={weighting!r}, times={times!r}, levels={levels}."
        )
