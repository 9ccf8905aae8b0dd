"""The score model: the gradient of the log density of noisy data, learned at all noise levels.

    s(z, t) ~ grad log q(z_t)

    loss = E_t[ lambda(t) 1/2 |s(z_t, t) - grad log q(z_t)|^2 ] / dim(x) + const

    dz = [ f z - g^2 s(z, t) ] dt + g dw          the way back from noise to data

`objective` is the estimator of this loss, in which the true score is not known
(`kgen.diffusion.score_matching`). The stochastic differential equations VP, VE and sub-VP are
scalings of the process in continuous time. NCSN is VE with L noise levels, `levels=L`, and Langevin
dynamics as the solver, in L - 1 steps. By Tweedie's formula x_hat = (z + sigma^2 s) / alpha, so
solvers, guidance and likelihoods are those of diffusion models; with `objective="dsm"` and the
weighting "elbo" (lambda = g^2) so is the loss.

References:
  Song and Ermon (2019), https://arxiv.org/abs/1907.05600 (NCSN).
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 7 and appendix A.
  Luo (2022), https://arxiv.org/abs/2208.11970, eqs. 148-157.
"""

import tensorflow as tf

from kgen.checks import check_interval, check_one_of
from kgen.diffusion import BoundSteps, NoiseLevels
from kgen.diffusion.score_matching import OBJECTIVES, implicit_score_matching
from kgen.models.density_model import DensityModel
from kgen.models.generative_model import images_of
from kgen.serialization import serializable
from kgen.tensors import split


@serializable
class ScoreModel(DensityModel):
    """Score-based model of pictures or other arrays.

    Args:
        network: called as `network(z, log_snr, cond, training)`, output of the shape of `z`.
        process: a `GaussianDiffusion`.
        objective: `"dsm"` (denoising), `"implicit"`, `"sliced"` or `"sliced_vr"` score matching.
        data_shape: shape of an example, such as `(28, 28, 1)`; None takes that of the network.
        prediction: what the network's output means; with `"eps"` the score is -output / sigma,
            which leaves an output of one size at all noise levels, with `"score"` the output.
        weighting: `"simple"` for lambda = sigma^2, `"elbo"` for the likelihood weighting g^2, or
            another key of `kgen.diffusion.weighting.WEIGHTINGS`.
        levels: number of noise levels, at least 2, equally spaced in t from 0 to 1; or None for
            continuous time. `generate(num_steps=levels - 1, ...)` with a solver of `grid="t"` uses
            the same levels.
        grey_levels: 256 for 8-bit pictures in [-1, 1], or None for real values.
        conditioner: None, or a `Conditioner` such as `kgen.conditioning.Labels`.
        cond_drop_rate: share of the examples that are shown the null condition in training.
        times: how training draws t, a key of `kgen.diffusion.times.TIME_SAMPLERS`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        default_solver: what `generate` takes for `solver`: a `kgen.solvers.Solver`, a name in
            `kgen.solvers.SOLVERS`, or a plan; None is `"dpm"`.
        default_guidance_scale: what it takes for `guidance_scale`; None is 1.
        **kwargs: `name` and `dtype` of a Keras model.

    A batch is as of `DiffusionModel`.

    Raises:
        ValueError: if an option has another value.

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
        network,
        process,
        *,
        objective="dsm",
        data_shape=None,
        prediction="eps",
        weighting="simple",
        levels=None,
        grey_levels=256,
        conditioner=None,
        cond_drop_rate=0.1,
        times="stratified",
        ema_decay=None,
        seed=None,
        default_solver=None,
        default_guidance_scale=None,
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
            **kwargs,
        )
        check_one_of("objective", objective, OBJECTIVES)
        if levels is not None:
            check_interval("levels", levels, "[2, inf)")
        self.objective = objective

    @property
    def bound_times(self):
        """The times of the bound: continuous, or the steps from each noise level to the next."""
        return "stratified" if self.levels is None else BoundSteps(self.levels - 1)

    @property
    def term_names(self):
        """The one term of the loss."""
        return ("score_matching",)

    def loss_terms(self, batch, training=False, seed=None):
        """`score_matching`, for each number of the data, `[B]`; up to a constant."""
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

    def score(self, z, t, cond=None):
        """Grad log q(z_t) at `z` `[B, ...]` and `t` (scalar or `[B]`)."""
        return self.process.score(z, self.denoise(z, t, cond), t)
