"""Bits per dimension: the negative log likelihood of an example per dimension, in bits.

    bits/dim = -log P(x) / (D log 2)

for a discrete x with D dimensions. The probability of a discrete value under a density is the
integral over its bin; for a density that varies little over bins of width w, P(x) = p(x) w^D, so

    bits/dim = (-log p(x) - D log w) / (D log 2)

and w = 2/255 for 8-bit data in [-1, 1].

Reference:
  Theis et al. (2016), https://arxiv.org/abs/1511.01844, section 3.1.
"""

import math

import numpy as np

from kgen.checks import check_count, check_positive


def bits_per_dim(
    nats: float | np.ndarray, dimensions: int, bin_width: float | None = None
) -> float | np.ndarray:
    """Converts a negative log likelihood, or a bound on it, from nats to bits per dimension.

    Args:
        nats: -log p(x), a number or an array.
        dimensions: D, the number of values of an example.
        bin_width: None if p is a probability; if p is a density, the width of the bins of the data,
            2/255 for 8-bit data in [-1, 1].

    Returns:
        Bits per dimension, a number or an array as `nats`.

    Raises:
        ValueError: if `dimensions` or `bin_width` is not positive.

    Example:
        >>> bits_per_dim(100 * math.log(256), 100)
        8.0
    """
    check_count("dimensions", dimensions)
    if bin_width is not None:
        check_positive("bin_width", bin_width)
    offset = math.log(bin_width) if bin_width else 0.0
    return (nats / dimensions - offset) / math.log(2)
