"""DDIM whose estimate of the data is held in the range of the data, as DDPM's pipelines do.

    x_hat = denoise(z, t),    eps_hat = (z - alpha_t x_hat) / sigma_t
    z_s   = alpha_s clip(x_hat, -1, 1) + sigma_s eps_hat

The noise is that of the estimate before it is clipped. A denoiser that clips would not do: the
noise would then make up for what was cut off.

Reference:
  Ho et al. (2020), https://arxiv.org/abs/2006.11239, section 3.3 (data in [-1, 1]); that the noise
  stays is the published code's choice ("use_clipped_model_output" is off).
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_positive
from kgen.serialization import serializable
from kgen.solvers.solver import Solver


@serializable
@dataclasses.dataclass(frozen=True)
class ClippedDDIM(Solver):
    """First-order deterministic solver for data in a range.

    Args:
        bound: largest absolute value of the data.

    Raises:
        ValueError: if `bound` is not positive.

    Example:
        >>> ClippedDDIM().nfe(50)
        50
    """

    bound: float = 1.0

    order = 1

    def __post_init__(self):
        super().__post_init__()
        check_positive("bound", self.bound)

    def nfe(self, num_steps):
        """One call a step."""
        return num_steps

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Makes one step from `t` to `s`."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.alpha_sigma(t), process.alpha_sigma(s)
        x_hat = denoise(z, t)
        eps = (z - alpha_t * x_hat) / sigma_t
        x_hat = tf.clip_by_value(x_hat, -self.bound, self.bound)
        return alpha_s * x_hat + sigma_s * eps, memory
