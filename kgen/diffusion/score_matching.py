"""Score matching: losses that train a model of the score without knowing the true score.

At the noise level t let s(z) be the model of grad log q(z_t), and J its Jacobian. Up to a constant
that does not depend on the model, 1/2 E |s - grad log q|^2 equals the expectation of each of

    dsm        1/2 |s + eps / sigma|^2              the target is the score of q(z_t | x)
    implicit   1/2 |s|^2 + tr J                     exact, D backward passes
    sliced     1/2 (v.s)^2 + v.J v                  one random direction v of signs
    sliced_vr  1/2 |s|^2 + v.J v                    with the exact first term, of less variance

In expectation over v with E[v v^T] = I all of them agree. `dsm` is the denoising loss of diffusion
models (`kgen.diffusion.Denoiser.loss`); the others need only samples of q, and no conditional
score. Each is multiplied by sigma^2 w(l) (-dl/dt), so that a weighting has the same meaning for
all: "elbo" is the likelihood weighting g^2, "simple" is sigma^2.

References:
  implicit: Hyvarinen (2005), https://jmlr.org/papers/v6/hyvarinen05a.html, theorem 1.
  dsm: Vincent (2011), https://doi.org/10.1162/NECO_a_00142, eq. 9.
  sliced, sliced_vr: Song et al. (2019), https://arxiv.org/abs/1905.07088, eqs. 7 and 8.
  weighting: Song et al. (2021), https://arxiv.org/abs/2101.09258, theorem 1.
"""

from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from kgen.diffusion.denoiser import Denoiser
from kgen.diffusion.times import TrainingTimes, draw_noise_levels
from kgen.diffusion.weighting import error_factor
from kgen.tensors import expand_to, normal, sum_event, uniform
from kgen.types import Condition, Weighting

OBJECTIVES = ("dsm", "implicit", "sliced", "sliced_vr")


def implicit_score_matching(
    denoiser: Denoiser,
    x: tf.Tensor,
    cond: Condition,
    seeds: Sequence[tf.Tensor],
    *,
    objective: Literal["implicit", "sliced", "sliced_vr"],
    weighting: Weighting = "simple",
    times: TrainingTimes = "stratified",
    training: bool = False,
) -> tf.Tensor:
    """Returns the weighted implicit or sliced score matching loss of each example.

    Args:
        denoiser: a `Denoiser`.
        x: data `[B, ...]`.
        cond: the condition or None.
        seeds: three int32 pairs, of the times, the noise and the directions.
        objective: `"implicit"`, `"sliced"` or `"sliced_vr"`.
        weighting: a key of `kgen.diffusion.weighting.WEIGHTINGS`.
        times: a key of `kgen.diffusion.times.TIME_SAMPLERS`, or `NoiseLevels(L)`.
        training: whether layers such as dropout are active.

    Returns:
        A tensor `[B]`, which may be negative.
    """
    process = denoiser.process
    log_snr, slope, density = draw_noise_levels(times, process, tf.shape(x)[0], seeds[0])
    alpha, sigma = (expand_to(a, x) for a in process.alpha_sigma_of(log_snr))
    z = alpha * x + sigma * normal(tf.shape(x), seeds[1])
    if objective == "implicit":
        size = x.shape[1:].num_elements()
        directions = tf.reshape(tf.eye(size), [size, 1, *x.shape[1:]])
        directions = [tf.broadcast_to(v, tf.shape(x)) for v in tf.unstack(directions)]
    else:
        directions = [tf.sign(uniform(tf.shape(x), seeds[2]) - 0.5)]

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        score = denoiser.score_of(z, log_snr, cond, training)
        along = [tf.reduce_sum(score * v) for v in directions]
    trace = tf.add_n([sum_event(tape.gradient(a, z) * v) for a, v in zip(along, directions)])
    if objective == "sliced":
        square = sum_event(score * directions[0]) ** 2
    else:
        square = sum_event(score**2)
    _, sigma = process.alpha_sigma_of(log_snr)
    return sigma**2 * error_factor(weighting, log_snr, slope) / density * (square / 2 + trace)
