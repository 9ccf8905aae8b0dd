"""Langevin dynamics at fixed noise levels, alone and as the corrector of a predictor.

At noise level t the chain

    z <- z + a/2 score(z, t) + sqrt(a) eps

has q(z_t) as its stationary distribution for small steps a.

    AnnealedLangevin     makes Langevin steps at each noise level, with a = (step_size sigma_t)^2;
                         published with 100 steps per level and a = 0.2 sigma_t^2
    PredictorCorrector   makes an Euler-Maruyama step, then Langevin steps whose drift would be
                         `snr` times their noise if the score were that of the noise alone,
                         |score| = |eps| / sigma_t: a = 2 (snr sigma_t)^2

Song et al. (2021) use |eps| / |score| in place of sigma_t, with norms that are means over the
batch, so that a sample depends on the other examples of its batch. With the ratio of a single
example it would not, but then the step size would depend on z, and the chain would not keep q(z_t):
of N(0, I) in two dimensions it makes a distribution of variance 1.7 (`snr` 0.16), in 784 dimensions
of 1.03. The ratio equals sigma_t if the data are finer than the noise, as pictures are, and is
larger elsewhere, so that a step is never too long. This is also the rule of their annealed Langevin
corrector.

When the level changes from t to s, the annealed chain only rescales z by alpha_s / alpha_t; the
Langevin steps at the new level must reduce the variance, for which a few short steps are not
enough. With a sufficiently fine grid its error decreases as that of Euler-Maruyama. The error of
the predictor-corrector does not decrease below that of the corrector, a share snr^2 sigma_t^2 / v
of a variance v, so it has no order.

References:
  Song and Ermon (2019), https://arxiv.org/abs/1907.05600, algorithm 1.
  Song et al. (2021), https://arxiv.org/abs/2011.13456, algorithms 2 to 5 and appendix G.
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_count, check_positive
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.euler_maruyama import reverse_step
from kgen.solvers.solver import Solver
from kgen.tensors import fold_in, normal
from kgen.types import Denoise, Memory


@serializable
@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Annealed Langevin dynamics: Langevin steps at each noise level of the grid but the first.

    The first level, t = 1, needs none, since `generate` starts from an exact sample there. L noise
    levels, both ends included, have L - 1 steps between them: the levels of `ScoreModel(levels=L)`,
    which are equally spaced in t, are those of `num_steps=L - 1` and `grid="t"`.

    Args:
        langevin_steps: number of Langevin steps at each noise level.
        step_size: length of a step in units of the level's sigma.
        grid: see `Solver`.

    Raises:
        ValueError: if `langevin_steps` is less than 1, or `step_size` is not positive.

    Example:
        >>> AnnealedLangevin(langevin_steps=5).nfe(10)
        50
    """

    langevin_steps: int = 100
    step_size: float = 0.2**0.5

    order = 1
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("langevin_steps", self.langevin_steps)
        check_positive("step_size", self.step_size)

    def nfe(self, num_steps: int) -> int:
        """Returns `langevin_steps * num_steps`."""
        return self.langevin_steps * num_steps

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
        """Goes to the noise level at `s` and makes Langevin steps there."""
        alpha_t, _ = process.alpha_sigma(t)
        alpha_s, sigma_s = process.alpha_sigma(s)
        z = z * alpha_s / alpha_t
        a = (self.step_size * sigma_s) ** 2

        def langevin_step(i: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            score = process.score(z, denoise(z, s), s)
            eps = normal(tf.shape(z), fold_in(seed, i), z.dtype)
            return i + 1, tf.ensure_shape(z + a / 2 * score + tf.sqrt(a) * eps, z.shape)

        start = (tf.constant(0), z)
        _, z = tf.while_loop(lambda i, z: i < self.langevin_steps, langevin_step, start)
        return z, memory


@serializable
@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Euler-Maruyama as the predictor and Langevin dynamics as the corrector.

    Args:
        corrector_steps: number of Langevin steps after each Euler-Maruyama step.
        snr: ratio of the drift to the noise in a Langevin step, for the score of pure noise.
        grid: see `Solver`.

    Raises:
        ValueError: if `corrector_steps` is less than 1, or `snr` is not positive.

    Example:
        >>> PredictorCorrector().nfe(1000)
        2000
    """

    corrector_steps: int = 1
    snr: float = 0.16

    order = None
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("corrector_steps", self.corrector_steps)
        check_positive("snr", self.snr)

    def nfe(self, num_steps: int) -> int:
        """Returns `(1 + corrector_steps) * num_steps`."""
        return (1 + self.corrector_steps) * num_steps

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
        """Makes one step from `t` to `s`, and the corrector steps at `s`."""
        z = reverse_step(denoise, process, z, t, s, normal(tf.shape(z), seed, z.dtype))
        _, sigma = process.alpha_sigma(s)
        a = 2 * (self.snr * sigma) ** 2
        for i in range(self.corrector_steps):
            eps = normal(tf.shape(z), fold_in(seed, i + 1), z.dtype)
            score = process.score(z, denoise(z, s), s)
            z += a * score + tf.sqrt(2 * a) * eps
        return z, memory
