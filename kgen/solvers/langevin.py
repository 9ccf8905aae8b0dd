"""Langevin dynamics: samplers that walk at a fixed noise level, and those that use them.

At noise level t the chain

    z <- z + a/2 score(z, t) + sqrt(a) eps

has q(z_t) as its stationary distribution for small steps a.

    AnnealedLangevin     goes from level to level and walks at each, a = (step_size sigma_t)^2;
                         the published ladder has 100 walks and a = 0.2 sigma_t^2
    PredictorCorrector   a step of Euler and Maruyama, then steps of Langevin whose drift would be
                         `snr` times their noise if the score were that of the noise alone,
                         |score| = |eps| / sigma_t: a = 2 (snr sigma_t)^2

Song et al. (2021) measure |eps| / |score| in the place of sigma_t, with norms that are means over
the batch; their samples depend on what else is in the batch. The ratio of a single example would
not, but then the step would depend on where z is, and the chain would lose q(z_t): of N(0, I) in
two dimensions it makes one of variance 1.7 (`snr` 0.16), in 784 dimensions of 1.03. sigma_t is what
the ratio is where the data are finer than the noise, as pictures are, and less elsewhere, so that a
step is never too long. It is also the rule of their annealed Langevin corrector.

When the level changes from t to s, the annealed chain only rescales z by alpha_s / alpha_t: the
walk at the new level has to bring the variance down, for which a few short steps are not enough.
With steps of the grid to spare its error falls as that of Euler and Maruyama does. That of the
predictor-corrector stops falling at the corrector's own, a share snr^2 sigma_t^2 / v of a variance
v: it has no order.

References:
  Song and Ermon (2019), https://arxiv.org/abs/1907.05600, algorithm 1.
  Song et al. (2021), https://arxiv.org/abs/2011.13456, algorithms 2 to 5 and appendix G.
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_count, check_positive
from kgen.serialization import serializable
from kgen.solvers.euler_maruyama import reverse_step
from kgen.solvers.solver import Solver
from kgen.tensors import fold_in, normal


@serializable
@dataclasses.dataclass(frozen=True)
class AnnealedLangevin(Solver):
    """Langevin dynamics at each noise level of the grid but the first.

    At t = 1 there is nothing to walk for: `generate` begins with a draw of that level. A ladder of
    L levels, ends included, has L - 1 steps: those of `ScoreModel(levels=L)`, which are equidistant
    in t, are met with `num_steps=L - 1` and `grid="t"`.

    Args:
        walks: steps at each level.
        step_size: length of a step in units of the level's standard deviation of noise, sqrt(0.2)
            by default.

    Raises:
        ValueError: if `walks` is less than 1, or `step_size` is not positive.

    Example:
        >>> AnnealedLangevin(walks=5).nfe(10)
        50
    """

    walks: int = 100
    step_size: float = 0.2**0.5

    order = 1
    stochastic = True

    def __post_init__(self):
        super().__post_init__()
        check_count("walks", self.walks)
        check_positive("step_size", self.step_size)

    def nfe(self, num_steps):
        """`walks` calls a step."""
        return self.walks * num_steps

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Goes to the level `s` and walks there."""
        alpha_t, _ = process.alpha_sigma(t)
        alpha_s, sigma_s = process.alpha_sigma(s)
        z = z * alpha_s / alpha_t
        a = (self.step_size * sigma_s) ** 2

        def walk(i, z):
            score = process.score(z, denoise(z, s), s)
            eps = normal(tf.shape(z), fold_in(seed, i), z.dtype)
            return i + 1, tf.ensure_shape(z + a / 2 * score + tf.sqrt(a) * eps, z.shape)

        _, z = tf.while_loop(lambda i, z: i < self.walks, walk, (tf.constant(0), z))
        return z, memory


@serializable
@dataclasses.dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Euler-Maruyama as the predictor and Langevin dynamics as the corrector.

    Args:
        corrections: steps of the corrector after each step of the predictor.
        snr: ratio of the corrector's drift to its noise, for a score as large as that of noise.

    Raises:
        ValueError: if `corrections` is less than 1, or `snr` is not positive.

    Example:
        >>> PredictorCorrector().nfe(1000)
        2000
    """

    corrections: int = 1
    snr: float = 0.16

    order = None
    stochastic = True

    def __post_init__(self):
        super().__post_init__()
        check_count("corrections", self.corrections)
        check_positive("snr", self.snr)

    def nfe(self, num_steps):
        """One call a step, and one for each correction."""
        return (1 + self.corrections) * num_steps

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Makes one step from `t` to `s` and corrects it there."""
        z = reverse_step(denoise, process, z, t, s, normal(tf.shape(z), seed, z.dtype))
        _, sigma = process.alpha_sigma(s)
        a = 2 * (self.snr * sigma) ** 2
        for i in range(self.corrections):
            eps = normal(tf.shape(z), fold_in(seed, i + 1), z.dtype)
            score = process.score(z, denoise(z, s), s)
            z += a * score + tf.sqrt(2 * a) * eps
        return z, memory
