"""Score matching: how a score is learned where its values are not known.

At the noise level t let s(z) be the model of grad log q(z_t), and J its Jacobian. Up to a constant
that the model cannot change, 1/2 E |s - grad log q|^2 is each of

    dsm        1/2 |s + eps / sigma|^2              the target is that of q(z_t | x)
    implicit   1/2 |s|^2 + tr J                     exact, D backward passes
    sliced     1/2 (v.s)^2 + v.J v                  one random direction v, signs
    sliced_vr  1/2 |s|^2 + v.J v                    the first term without its variance

In expectation over v with E[v v^T] = I all of them agree. `dsm` is the denoising loss of diffusion
(`kgen.diffusion.loss`); the others need nothing of q but samples, so they also hold where the data
are their own only samples. Each is weighted by sigma^2 w(l) (-dl/dt), so that a weighting means the
same for all: "elbo" is the likelihood weighting g^2, "simple" is sigma^2.

References:
  implicit: Hyvarinen (2005), https://jmlr.org/papers/v6/hyvarinen05a.html, theorem 1.
  dsm: Vincent (2011), https://doi.org/10.1162/NECO_a_00142, eq. 9.
  sliced, sliced_vr: Song et al. (2019), https://arxiv.org/abs/1905.07088, eqs. 7 and 8.
  weighting: Song et al. (2021), https://arxiv.org/abs/2101.09258, theorem 1.
"""

import tensorflow as tf

from kgen.diffusion.times import draw_noise_levels
from kgen.diffusion.weighting import error_factor
from kgen.tensors import expand_to, normal, sum_event, uniform

OBJECTIVES = ("dsm", "implicit", "sliced", "sliced_vr")


def implicit_score_matching(
    denoiser, x, cond, seeds, *, objective, weighting="simple", times="stratified", training=False
):
    """Returns the weighted loss of each example, which needs no target.

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
