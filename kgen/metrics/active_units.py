"""Active units: the dimensions of a VAE's code that depend on the data.

    A_i = Var_x( E_q(z_i|x)[ z_i ] ),    unit i is active if A_i > threshold

A unit whose posterior is the prior for every x carries no information: it has collapsed.

Reference:
  Burda et al. (2015), https://arxiv.org/abs/1509.00519, section 5.2 (threshold 0.01).
"""

import numpy as np

from kgen.types import TensorLike


def active_units(means: TensorLike, threshold: float = 0.01) -> np.ndarray:
    """Returns which units of a code are active.

    Args:
        means: posterior means `[N, D]` of at least two examples.
        threshold: the variance of the means above which a unit is active.

    Returns:
        A boolean array `[D]`.

    Raises:
        ValueError: if `means` has another rank, fewer than two rows, or is not finite.

    Example:
        >>> active_units([[0.0, 1.0], [0.0, -1.0]]).tolist()
        [False, True]
    """
    means = np.asarray(means)
    number = np.issubdtype(means.dtype, np.number)
    if means.ndim != 2 or len(means) < 2 or not number or not np.isfinite(means).all():
        raise ValueError(
            "`means` must be finite numbers [N, D] with N > 1. "
            f"Received: shape {means.shape}, dtype {means.dtype}."
        )
    return means.var(axis=0) > threshold
