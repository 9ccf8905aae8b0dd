"""The score model: the gradient of the log density of noisy data, learned at all noise levels.

    s(z, t) ~ grad log q(z_t)

    loss = E_t[ lambda(t) 1/2 |s(z_t, t) - grad log q(z_t)|^2 ] / dim(x) + const

    dz = [ f z - g^2 s(z, t) ] dt + g dw          the reverse SDE, from noise to data

The true score is not known, so that the loss is estimated up to a constant, by one of the
objectives of `kgen.diffusion.score_matching`. The stochastic differential equations VP, VE and
sub-VP are scalings of the process in continuous time. NCSN is VE with L noise levels, `levels=L`,
and Langevin dynamics as the solver, in L - 1 steps. By Tweedie's formula
x_hat = (z + sigma^2 s) / alpha, so that solvers, guidance and likelihoods are those of diffusion
models; with `objective="dsm"` and the weighting "elbo" (lambda = g^2) so is the loss.

References:
  Song and Ermon (2019), https://arxiv.org/abs/1907.05600 (NCSN).
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 7 and appendix A.
  Luo (2022), https://arxiv.org/abs/2208.11970, eqs. 148-157.
"""

from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from kgen.checks import check_interval, check_one_of
from kgen.conditioning import Conditioner
from kgen.diffusion import BoundSteps, GaussianDiffusion, NoiseLevels
from kgen.diffusion.score_matching import OBJECTIVES, implicit_score_matching
from kgen.diffusion.times import TrainingTimes
from kgen.models.density_model import DensityModel
from kgen.models.generative_model import images_of
from kgen.sampling.plan import Plan
from kgen.serialization import serializable
from kgen.solvers import Solver
from kgen.tensors import split
from kgen.types import (
    Batch,
    Condition,
    Network,
    Prediction,
    SolverName,
    TensorLike,
    TimeSampler,
    Weighting,
)


@serializable
class ScoreModel(DensityModel):
    """Score-based model of pictures or other arrays.

    Args:
        network: called as `network(z, log_snr, cond, training)`; returns the shape of `z`.
        process: a `GaussianDiffusion`.
        objective: `"dsm"` (denoising), `"implicit"`, `"sliced"` or `"sliced_vr"` (with reduced
            variance) score matching.
        data_shape: shape of an example, such as `(28, 28, 1)`; None for that of the network's
            input.
        prediction: what the network predicts. With `"eps"` the score is -output / sigma, and the
            output has the same scale at all noise levels; with `"score"` it is the output.
        weighting: `"simple"` for lambda = sigma^2, `"elbo"` for the likelihood weighting g^2, or
            another key of `kgen.diffusion.weighting.WEIGHTINGS`.
        levels: number of noise levels, at least 2, equally spaced in t from 0 to 1; or None for
            continuous time. `generate(num_steps=levels - 1, ...)` with a solver of `grid="t"` uses
            the same noise levels.
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
        **kwargs: `name` and `dtype` of a Keras model.

    For batches see `DiffusionModel`.

    Raises:
        TypeError: if an option is not a number.
        ValueError: if an option is unknown or out of range, or the schedule is learned.

    Example:
        >>> from kgen.diffusion import GaussianDiffusion, LinearLogSNR
        >>> from kgen.networks import TimeMLP
        >>> process = GaussianDiffusion(LinearLogSNR(9.0, -4.0), scaling="ve")
        >>> model = ScoreModel(TimeMLP(2, width=16), process, grey_levels=None)
        >>> model.generate(num_samples=3, num_steps=5, seed=0).shape
        (3, 2)
    """

    def __init__(
        self,
        network: Network,
        process: GaussianDiffusion,
        *,
        objective: Literal["dsm", "implicit", "sliced", "sliced_vr"] = "dsm",
        data_shape: Sequence[int] | None = None,
        prediction: Prediction = "eps",
        weighting: Weighting = "simple",
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
            **kwargs,
        )
        check_one_of("objective", objective, OBJECTIVES)
        if levels is not None:
            check_interval("levels", levels, "[2, inf)")
        self.objective = objective

    @property
    def bound_times(self) -> TrainingTimes:
        """The times of the bound: continuous, or L - 1 steps between the L noise levels."""
        return "stratified" if self.levels is None else BoundSteps(self.levels - 1)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms."""
        return ("score_matching",)

    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns `score_matching`, `[B]`, per dimension of the data, up to a constant."""
        seeds = split(self.seeds.next() if seed is None else seed, 4)
        x = images_of(batch)
        cond = self.encode_condition(batch, training, seeds[0])
        times = self.times if training else "stratified"
        options = {
            "weighting": self.weighting,
            "times": times if self.levels is None else NoiseLevels(self.levels),
            "training": training,
        }
        if self.objective == "dsm":
            loss = self.denoiser.loss(x, cond, seeds[1:3], **options)
        else:
            loss = implicit_score_matching(
                self.denoiser, x, cond, seeds[1:], objective=self.objective, **options
            )
        return {"score_matching": loss / tf.cast(tf.size(x[0]), tf.float32)}

    def score(self, z: tf.Tensor, t: TensorLike, cond: Condition = None) -> tf.Tensor:
        """Returns the score, the gradient of log q(z_t) at `z`, with the averaged weights.

        Args:
            z: noisy values, `[B, ...]`.
            t: times in [0, 1], a scalar or `[B]`.
            cond: for a conditional model, the output of its conditioner.

        Returns:
            A tensor of the shape of `z`.
        """
        return self.process.score(z, self.denoise(z, t, cond), t)
