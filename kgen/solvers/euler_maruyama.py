"""Euler-Maruyama: the basic method for the reverse-time stochastic differential equation.

    dz = [ f z - g^2 score(z, t) ] dt + g dw,     time running from 1 to 0

    z_s = z_t - (t - s) [ f z_t - g^2 score(z_t, t) ] + g sqrt(t - s) eps

Means and variances converge with order 1 (weak order), paths with order 1/2 (strong order). Toward
noise (s > t) it integrates the forward equation, dz = f z dt + g dw.

References:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, eq. 6 (Anderson's reverse equation) and
  appendix D.
  Kloeden and Platen (1992), https://doi.org/10.1007/978-3-662-12616-5, section 9.1.
"""

import dataclasses

import tensorflow as tf

from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import normal
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Stochastic solver of weak order 1 with one call per step.

    Args:
        grid: see `Solver`.

    Example:
        >>> EulerMaruyama().nfe(1000)
        1000
    """

    order = 1
    stochastic = True

    def nfe(self, num_steps: int) -> int:
        """Returns `num_steps`."""
        return num_steps

    def step(
        self,
        denoise: Denoise,
        process: GaussianDiffusion,
        z: tf.Tensor,
        t: tf.Tensor,
        s: tf.Tensor,
        index: tf.Tensor,
        memory: Memory,
        seed: tf.Tensor | None,
    ) -> tuple[tf.Tensor, Memory]:
        """Makes one step from `t` to `s`."""
        return reverse_step(denoise, process, z, t, s, normal(tf.shape(z), seed, z.dtype)), memory


def reverse_step(
    denoise: Denoise,
    process: GaussianDiffusion,
    z: tf.Tensor,
    t: tf.Tensor,
    s: tf.Tensor,
    eps: tf.Tensor,
) -> tf.Tensor:
    """Makes an Euler-Maruyama step from `t` to `s` with the standard normal noise `eps`."""
    f, g = process.drift(t), process.diffusion_coefficient(t)
    score = process.score(z, denoise(z, t), t)
    drift = f * z - tf.where(s < t, g**2, tf.zeros_like(g)) * score
    return z + (s - t) * drift + g * tf.sqrt(tf.abs(t - s)) * eps
