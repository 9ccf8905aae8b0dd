"""DDIM with estimates that are clipped to the range of the data, as published for DDPM.

    x_hat = denoise(z, t),    eps_hat = (z - alpha_t x_hat) / sigma_t
    z_s   = alpha_s clip(x_hat, -1, 1) + sigma_s eps_hat

The noise is computed from the estimate before clipping. This differs from DDIM with a clipped
denoiser, where the estimate of the noise would compensate for the clipping.

Reference:
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, section 3.3 (data in [-1, 1]). The noise of
  the unclipped estimate follows published code ("use_clipped_model_output" is off).
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_positive
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class ClippedDDIM(Solver):
    """First-order deterministic solver with clipped estimates of the data.

    Args:
        bound: largest absolute value of the data, to which estimates are clipped.
        grid: see `Solver`.

    Raises:
        ValueError: if `bound` is not positive.

    Example:
        >>> ClippedDDIM().nfe(50)
        50
    """

    bound: float = 1.0

    order = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("bound", self.bound)

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
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(t), process.alpha_sigma(s)
        x_hat = denoise(z, t)
        eps = (z - alpha_t * x_hat) / sigma_t
        x_hat = tf.clip_by_value(x_hat, -self.bound, self.bound)
        return alpha_s * x_hat + sigma_s * eps, memory
