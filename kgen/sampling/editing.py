"""Editing of given pictures: image to image, inpainting, inversion and interpolation.

    image to image   starts the solver from z_t = alpha_t x + sigma_t eps at a time t < 1
    inpainting       replaces the known part of every estimate by its true value
    inversion        runs the solver from data to noise, from which it generates the same picture
    interpolation    follows the great circle between two noises, along which the norm is that of
                     noise

These are functions of a denoiser, so they apply to models of pixels and of latents, with any
guidance. The methods `generate` and `invert` of models use them.

References:
  image to image: Meng et al. (2022), https://arxiv.org/abs/2108.01073, algorithm 1.
  inpainting: Song et al. (2021), https://arxiv.org/abs/2011.13456, appendix I.2, in x_hat.
  inversion: Song, Meng and Ermon (2020), https://arxiv.org/abs/2010.02502, section 5.4.
  slerp: Shoemake (1985), https://doi.org/10.1145/325165.325242.
"""

import tensorflow as tf

from kgen.diffusion import time_grid
from kgen.diffusion.process import GaussianDiffusion
from kgen.solvers import solve
from kgen.solvers.solver import Solver
from kgen.tensors import expand_to
from kgen.types import Denoise, TensorLike


def inpaint(denoise: Denoise, x: TensorLike, mask: TensorLike) -> Denoise:
    """Replaces the known part of the estimates of a denoiser.

    Args:
        denoise: a function of `z` and `t`.
        x: the known values, `[B, ...]`.
        mask: 1 where a value is to be generated, 0 where `x` is kept; broadcasts against `x`.

    Returns:
        A function `denoise(z, t) -> x_hat`.

    Example:
        >>> filled = inpaint(lambda z, t: 0.0 * z, tf.ones([1, 2]), tf.constant([[0.0, 1.0]]))
        >>> filled(tf.ones([1, 2]), 0.5).numpy().tolist()
        [[1.0, 0.0]]
    """

    def inpainted(z: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
        guess = denoise(z, t)
        weight = tf.cast(mask, guess.dtype)
        return weight * guess + (1 - weight) * tf.cast(x, guess.dtype)

    return inpainted


def invert(
    solver: Solver,
    denoise: Denoise,
    process: GaussianDiffusion,
    x: TensorLike,
    num_steps: int | tf.Tensor,
) -> tf.Tensor:
    """Computes the noise from which a deterministic solver generates `x`.

    Args:
        solver: a deterministic `Solver`.
        denoise: a function of `z` and `t`.
        process: a `GaussianDiffusion`.
        x: data, `[B, ...]`.
        num_steps: number of solver steps.

    Returns:
        z at t = 1, `[B, ...]`.

    Raises:
        ValueError: if the solver is stochastic.

    Example:
        >>> from kgen.diffusion import CosineLogSNR, GaussianDiffusion
        >>> from kgen.solvers import DDIM
        >>> process = GaussianDiffusion(CosineLogSNR())
        >>> invert(DDIM(), lambda z, t: 0.0 * z, process, tf.ones([2, 3]), 10).shape
        TensorShape([2, 3])
    """
    if solver.stochastic:
        raise ValueError(f"`solver` must be deterministic. Received: solver={solver!r}.")
    x = tf.convert_to_tensor(x)
    alpha, _ = process.alpha_sigma(tf.zeros([], x.dtype))
    times = time_grid(process, num_steps, solver.grid, dtype=x.dtype)
    return solve(solver, denoise, process, alpha * x, times[::-1])


def slerp(a: TensorLike, b: TensorLike, weight: TensorLike) -> tf.Tensor:
    """Interpolates along the great circle from `a` to `b` (spherical linear interpolation).

    Args:
        a: `[B, ...]`.
        b: `[B, ...]`.
        weight: a number or `[B]`; 0 gives `a`, 1 gives `b`.

    Returns:
        A tensor `[B, ...]`.

    Example:
        >>> slerp(tf.constant([[1.0, 0.0]]), tf.constant([[0.0, 1.0]]), 0.5).numpy().round(3)
        array([[0.707, 0.707]], dtype=float32)
    """
    a, b = tf.convert_to_tensor(a), tf.convert_to_tensor(b)
    flat = [tf.reshape(v, [tf.shape(v)[0], -1]) for v in (a, b)]
    units = [v / tf.norm(v, axis=-1, keepdims=True) for v in flat]
    cosine = tf.clip_by_value(tf.reduce_sum(units[0] * units[1], axis=-1), -1, 1)
    angle = tf.acos(cosine)
    weight = tf.broadcast_to(tf.cast(weight, a.dtype), tf.shape(angle))
    # At small angles the great circle is close to a straight line.
    straight = angle < 1e-4
    sine = tf.where(straight, tf.ones_like(angle), tf.sin(angle))
    left = tf.where(straight, 1 - weight, tf.sin((1 - weight) * angle) / sine)
    right = tf.where(straight, weight, tf.sin(weight * angle) / sine)
    return expand_to(left, a) * a + expand_to(right, b) * b
