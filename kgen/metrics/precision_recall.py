"""Precision and recall: how realistic samples are, and how much of the real data they cover.

    manifold(S) = union over s in S of the ball around s that reaches its k-th nearest neighbour
    precision   = share of the samples in manifold(real)
    recall      = share of the real pictures in manifold(samples)

Reference:
  Kynkaanniemi et al. (2019), https://arxiv.org/abs/1904.06991, eq. 1-2.
"""

import numpy as np

from kgen.metrics.features import check_features
from kgen.types import TensorLike


def precision_recall(real: TensorLike, samples: TensorLike, k: int = 3) -> tuple[float, float]:
    """Returns the precision and the recall of samples.

    Args:
        real: features `[N, D]` of real pictures.
        samples: features `[M, D]` of samples.
        k: the number of the neighbour whose distance is the radius of a ball; less than N and M.

    Returns:
        Precision and recall, each in [0, 1].

    Raises:
        ValueError: if the shapes do not match, a feature is not finite, or `k` is out of range.

    Example:
        >>> line = np.arange(10.0)[:, None]
        >>> precision_recall(line, line[:5], k=1)
        (1.0, 0.6)
    """
    real, samples = check_features(real, samples)
    size = max(np.abs(real).max(), np.abs(samples).max()) or 1.0  # of rounding errors, too
    real, samples = real / size, samples / size
    if not 1 <= k < min(len(real), len(samples)):
        raise ValueError(
            f"`k` must be at least 1 and less than the number of features. Received: k={k}."
        )
    return _share(samples, real, k), _share(real, samples, k)


def _share(points: np.ndarray, centres: np.ndarray, k: int, rows: int = 1000) -> float:
    """Returns the share of the points that lie in the manifold of the centres.

    The coordinates are at most 1; the tolerance is that of their rounding.
    """
    radii = np.concatenate(
        [
            # The nearest neighbour of a centre is the centre itself.
            np.partition(_squared(centres[i : i + rows], centres), k, axis=1)[:, k]
            for i in range(0, len(centres), rows)
        ]
    )
    inside = [
        (_squared(points[i : i + rows], centres) <= radii * (1 + 1e-12) + 1e-12).any(axis=1)
        for i in range(0, len(points), rows)
    ]
    return float(np.concatenate(inside).mean())


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    square = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.maximum(square, 0.0)
