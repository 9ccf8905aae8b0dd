"""Prediction types: what the output of a denoising network represents.

The noisy value and the output of a network are both linear in the clean data and the noise,

    z      = alpha x + sigma eps
    output = c_x   x + c_eps eps

so a prediction type is the pair (c_x, c_eps), one row of `PREDICTION_TYPES`, and every conversion
is one solve of this 2x2 system. With the determinant d = c_eps alpha - c_x sigma:

    x   = (c_eps z - sigma output) / d
    eps = (alpha output - c_x z) / d

At a given z, an error e of the output is an error alpha e / d of eps, so that the squared errors of
all prediction types agree up to a factor:

    |eps - eps_hat|^2 = (alpha / d)^2 |output - target|^2

The preconditioning of EDM is also such a row. With d = sigma_data and n^2 = d^2 alpha^2 + sigma^2,

    x_hat = c_skip z + c_out output,    c_skip = d^2 alpha / n^2,    c_out = sigma d / n

is the solution for (c_x, c_eps) = (sigma / (d n), -d alpha / n). `"edm"` is that of d = 0.5, the
published one, for pictures in [-1, 1]; `"edm_unit"` that of d = 1, for data of unit variance such
as standardised latents, and under VP -v.

`x`, `eps`, `z` and `output` are `[B, ...]`; `alpha` and `sigma` broadcast against them
(`expand_to`).

References:
  v: Salimans and Ho (2022), https://arxiv.org/abs/2202.00512, section 4 and appendix D.
  score: Luo (2022), https://arxiv.org/abs/2208.11970, eqs. 133 and 151.
  edm: Karras et al. (2022), https://arxiv.org/abs/2206.00364, table 1 and appendix B.6.
  flow (the velocity eps - x): Lipman et al. (2022), https://arxiv.org/abs/2210.02747, section 4.1.
"""

from collections.abc import Callable

import tensorflow as tf

from kgen.checks import check_one_of
from kgen.types import Prediction

SIGMA_DATA = {"edm": 0.5, "edm_unit": 1.0}  # standard deviation of the data; 0.5 for pictures


def _edm(data_std: float) -> Callable:
    def row(
        alpha: float | tf.Tensor, sigma: float | tf.Tensor
    ) -> tuple[float | tf.Tensor, float | tf.Tensor]:
        norm = ((data_std * alpha) ** 2 + sigma**2) ** 0.5
        return sigma / (data_std * norm), -data_std * alpha / norm

    return row


PREDICTION_TYPES = {
    "x": lambda alpha, sigma: (1.0, 0.0),
    "eps": lambda alpha, sigma: (0.0, 1.0),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "score": lambda alpha, sigma: (0.0, -1.0 / sigma),
    "flow": lambda alpha, sigma: (-1.0, 1.0),
    **{name: _edm(data_std) for name, data_std in SIGMA_DATA.items()},
}


def coefficients(
    prediction: Prediction, alpha: float | tf.Tensor, sigma: float | tf.Tensor
) -> tuple[float | tf.Tensor, float | tf.Tensor]:
    """Returns the pair (c_x, c_eps) of a prediction type.

    Args:
        prediction: a key of `PREDICTION_TYPES`.
        alpha: signal level, a number or a tensor.
        sigma: noise level, a number or a tensor.

    Returns:
        Two numbers or tensors of the shape of `alpha`.

    Raises:
        ValueError: for an unknown prediction type.

    Example:
        >>> coefficients("v", 0.6, 0.8)
        (-0.8, 0.6)
    """
    check_one_of("prediction", prediction, PREDICTION_TYPES)
    return PREDICTION_TYPES[prediction](alpha, sigma)


def data_std(prediction: Prediction) -> float:
    """Returns the standard deviation of the data that a prediction type assumes.

    Example:
        >>> data_std("edm"), data_std("edm_unit"), data_std("v")
        (0.5, 1.0, 1.0)
    """
    return SIGMA_DATA.get(prediction, 1.0)


def target(
    prediction: Prediction,
    x: float | tf.Tensor,
    eps: float | tf.Tensor,
    alpha: float | tf.Tensor,
    sigma: float | tf.Tensor,
) -> float | tf.Tensor:
    """Returns the regression target of the network, `c_x x + c_eps eps`, `[B, ...]`.

    Example:
        >>> target("flow", 2.0, 0.5, 0.6, 0.8)
        -1.5
    """
    c_x, c_eps = coefficients(prediction, alpha, sigma)
    return c_x * x + c_eps * eps


def to_x(
    prediction: Prediction,
    output: float | tf.Tensor,
    z: float | tf.Tensor,
    alpha: float | tf.Tensor,
    sigma: float | tf.Tensor,
) -> float | tf.Tensor:
    """Converts an output of the network at `z` to an estimate of the clean data, `[B, ...]`.

    Example:
        >>> to_x("x", 2.0, z=1.6, alpha=0.6, sigma=0.8)
        2.0
    """
    c_x, c_eps = coefficients(prediction, alpha, sigma)
    return (c_eps * z - sigma * output) / (c_eps * alpha - c_x * sigma)


def to_eps(
    prediction: Prediction,
    output: float | tf.Tensor,
    z: float | tf.Tensor,
    alpha: float | tf.Tensor,
    sigma: float | tf.Tensor,
) -> float | tf.Tensor:
    """Converts an output of the network at `z` to an estimate of the noise, `[B, ...]`.

    Example:
        >>> to_eps("eps", 0.5, z=1.6, alpha=0.6, sigma=0.8)
        0.5
    """
    c_x, c_eps = coefficients(prediction, alpha, sigma)
    return (alpha * output - c_x * z) / (c_eps * alpha - c_x * sigma)


def error_scale(
    prediction: Prediction, alpha: float | tf.Tensor, sigma: float | tf.Tensor
) -> float | tf.Tensor:
    """Returns the factor such that `|eps - eps_hat|^2 = factor * |output - target|^2`.

    Example:
        >>> error_scale("x", 1.0, 0.5)
        4.0
    """
    c_x, c_eps = coefficients(prediction, alpha, sigma)
    return (alpha / (c_eps * alpha - c_x * sigma)) ** 2
