"""Distances between two sets of pictures, by their features.

    Frechet   |m_a - m_b|^2 + tr( C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2 )
    KID       E k(a, a') + E k(b, b') - 2 E k(a, b),    k(x, y) = (<x, y> / D + 1)^3

with means m and covariances C of the features `[N, D]`. The bias of the first depends on the number
of samples; the second is unbiased. Report the extractor and the number of samples with either: a
Frechet distance on other features than those of Inception is not an FID.

References:
  Heusel et al. (2017), https://arxiv.org/abs/1706.08500, eq. 6.
  Binkowski et al. (2018), https://arxiv.org/abs/1801.01401, section 4 (the unbiased estimate).
"""

import numpy as np

from kgen.checks import check_count, check_interval
from kgen.metrics.features import check_features
from kgen.types import TensorLike


def frechet_distance(a: TensorLike, b: TensorLike) -> float:
    """Returns the Frechet distance between Gaussians that are fitted to two sets of features.

    Args:
        a: features `[N, D]`, N > 1.
        b: features `[M, D]`, M > 1.

    Returns:
        A float, at least 0.

    Raises:
        ValueError: if the shapes do not match, or a feature is not finite.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(50, 3))
        >>> round(frechet_distance(x, x + [1.0, 2.0, 2.0]), 6)
        9.0
    """
    a, b = check_features(a, b)
    mean = a.mean(axis=0) - b.mean(axis=0)
    c_a, c_b = np.cov(a, rowvar=False, ddof=1), np.cov(b, rowvar=False, ddof=1)
    c_a, c_b = np.atleast_2d(c_a), np.atleast_2d(c_b)
    values, vectors = np.linalg.eigh(c_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ c_b @ root), 0, None)).sum()
    return float(max(mean @ mean + np.trace(c_a) + np.trace(c_b) - 2 * cross, 0.0))


def kernel_distance(
    a: TensorLike, b: TensorLike, *, num_subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Returns the kernel (Inception) distance, an unbiased squared maximum mean discrepancy.

    Args:
        a: features `[N, D]`.
        b: features `[M, D]`.
        num_subsets: number of random subsets to average over.
        subset_size: number of examples of each set in a subset, limited to the size of the sets.
        seed: integer seed of the choice of subsets.

    Returns:
        The mean over subsets, which can be negative, and its standard error over the choice of
        subsets. The error does not include the variation over the choice of examples.

    Raises:
        ValueError: if the shapes do not match, a feature is not finite, or a number is too small.
    """
    a, b = check_features(a, b)
    check_count("num_subsets", num_subsets)
    check_interval("subset_size", subset_size, "[2, inf)")
    rng, size = np.random.default_rng(seed), min(subset_size, len(a), len(b))
    values = []
    for _ in range(num_subsets):
        x = a[rng.choice(len(a), size, replace=False)]
        y = b[rng.choice(len(b), size, replace=False)]
        within = _mean_of_others(_kernel(x, x)) + _mean_of_others(_kernel(y, y))
        values.append(within - 2 * _kernel(x, y).mean())
    return float(np.mean(values)), float(np.std(values) / np.sqrt(num_subsets))


def _mean_of_others(kernel: np.ndarray) -> float:
    """Returns the mean of a kernel matrix off its diagonal."""
    size = len(kernel)
    return (kernel.sum() - np.trace(kernel)) / (size * (size - 1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
