"""Validation of arguments: errors that name the argument, what it must be and what was received."""

import os
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from kgen.types import Shape


def check_count(name: str, value: Any) -> None:
    """Checks that a value is an integer of at least 1.

    Raises:
        TypeError: if the value is not a number.
        ValueError: if the value is not an integer, or less than 1.
    """
    _check_type(name, value)
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be at least 1, an integer. Received: {name}={value}.")


def check_positive(name: str, value: Any, zero: bool = False) -> None:
    """Checks that a number is finite and positive, or at least 0 with `zero`.

    Raises:
        TypeError: if the value is not a number.
        ValueError: if the number is not finite, negative, or 0 where that is not allowed.
    """
    _check_type(name, value)
    if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        bound = "finite and at least 0" if zero else "positive and finite"
        raise ValueError(f"`{name}` must be {bound}. Received: {name}={value}.")


def check_number(name: str, value: Any) -> None:
    """Checks that a number of either sign is finite.

    Raises:
        TypeError: if the value is not a number.
        ValueError: if the number is not finite.
    """
    _check_type(name, value)
    if not np.isfinite(value):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value}.")


def check_interval(name: str, value: Any, interval: str) -> None:
    """Checks that a number lies in an interval, given in mathematical notation as `"[0, 1)"`.

    Raises:
        TypeError: if the value is not a number.
        ValueError: if the number is outside of the interval.
    """
    _check_type(name, value)
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"`{name}` must be in {interval}. Received: {name}={value}.")


def _check_type(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")


def check_one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Checks that an option has one of the allowed names.

    Raises:
        ValueError: if it has not.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {sorted(allowed)}. Received: {name}={value!r}.")


def check_path(name: str, value: Any) -> pathlib.Path:
    """Checks a path and returns it as a `pathlib.Path`.

    Raises:
        TypeError: if the value is neither a string nor a path.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a path. Received: {name}={value!r}.")
    return pathlib.Path(value)


def check_prior(prior: object, latent_shape: Shape, data_shape: Shape, likelihood: Any) -> None:
    """Checks that a prior fits the codes and the data of a model.

    Args:
        prior: an object of `kgen.priors`.
        latent_shape: shape of a code of the model.
        data_shape: shape of an example, which the pseudo-inputs of a `VampPrior` must have.
        likelihood: the model's likelihood, which determines the range of the data.

    Raises:
        TypeError: if `prior` is not a prior.
        ValueError: if `prior` was made for another shape, or for data of another range.
    """
    methods = (getattr(prior, name, None) for name in ("log_prob", "kl", "sample"))
    if isinstance(prior, type) or not all(map(callable, methods)):
        raise TypeError(
            f"`prior` must be None or an object of `kgen.priors`. Received: prior={prior!r}."
        )
    for name, shape in (("latent_shape", latent_shape), ("data_shape", data_shape)):
        received = tuple(getattr(prior, name, shape))
        if received != tuple(shape):
            raise ValueError(
                f"`prior` must have {name} {tuple(shape)}, as the model has. Received: {received}."
            )
    if has_range(likelihood, data_shape):
        for name in ("low", "high"):
            expected = getattr(likelihood, name)
            received = getattr(prior, name, expected)
            if received != expected:
                raise ValueError(
                    f"`prior` must have {name}={expected:g}, as the data of a "
                    f"{type(likelihood).__name__} have. Received: {received:g}."
                )


def check_data(name: str, x: Any, shape: Shape, likelihood: Any = None) -> None:
    """Checks the dtype, shape, finiteness and range of examples.

    Args:
        name: name of the argument, for the message.
        x: examples, `[N, ...]`.
        shape: shape of one example.
        likelihood: None, or the likelihood whose range the examples must be in; see `has_range`.

    Raises:
        TypeError: if `x` does not hold floating-point numbers.
        ValueError: if `x` has another shape, is empty, is not finite or is out of range.
    """
    dtype = getattr(x, "dtype", None)
    floating = dtype.is_floating if tf.is_tensor(x) else np.issubdtype(dtype, np.floating)
    if dtype is None or not floating:
        raise TypeError(
            f"`{name}` must be a floating-point array. Received: "
            f"{getattr(dtype, 'name', type(x).__name__)}."
        )
    if tuple(x.shape[1:]) != tuple(shape) or len(x.shape) != len(shape) + 1:
        raise ValueError(f"`{name}` must have shape [N, {_list(shape)}]. Received: {x.shape}.")
    x = np.asarray(x)
    if not len(x):
        raise ValueError(f"`{name}` must hold at least one example. Received: an empty array.")
    low, high = x.min(), x.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"`{name}` must be finite. Received: NaN or infinite values.")
    if likelihood is None or not has_range(likelihood, shape):
        return
    if low < likelihood.low - 1e-5 or high > likelihood.high + 1e-5:
        raise ValueError(
            f"`{name}` must be in [{likelihood.low:g}, {likelihood.high:g}] for "
            f"{type(likelihood).__name__}. Received: values in [{low:g}, {high:g}]."
        )


def warn_of_range(x: np.ndarray, shape: Shape, likelihood: Any = None) -> None:
    """Warns of data that seem to have another range than the model expects.

    These are pictures without a value below 0, for a model of pictures in [-1, 1]; and data
    without a range, such as columns of a table, with a channel that is far from standardised.

    Args:
        x: examples `[N, ...]`, an array that `check_data` has accepted.
        shape: shape of one example.
        likelihood: None, or the likelihood whose range the examples must be in.
    """
    x = np.asarray(x)
    if likelihood is not None and has_range(likelihood, shape):
        low, high = float(x.min()), float(x.max())
        if likelihood.low < 0 <= low < high and len(shape) == 3:
            warnings.warn(
                "The pictures have no value below 0 although the model expects pictures in "
                f"[{likelihood.low:g}, {likelihood.high:g}], where {likelihood.low:g} is black: "
                "convert pictures in [0, 1] by `2 * x - 1`. "
                f"Received: values in [{low:g}, {high:g}].",
                stacklevel=2,
            )
        return
    size = np.sqrt(np.mean(np.square(x, dtype="float64"), axis=tuple(range(x.ndim - 1))))
    if size.max() > 100:
        warnings.warn(
            f"The data have values of the order of {size.max():.3g} (root mean square of channel "
            f"{int(size.argmax())}), which is too large for training: subtract the mean of each "
            "channel and divide by its standard deviation.",
            stacklevel=2,
        )


def has_range(likelihood: Any, shape: Shape) -> bool:
    """Returns whether examples of a shape must lie in the range of a likelihood.

    Under a density (one with a `bin_width`) only pictures are limited to a range, since other data
    may be any real numbers.

    Example:
        >>> from kgen.likelihoods import Bernoulli, GaussianLikelihood
        >>> has_range(Bernoulli(), (2,)), has_range(GaussianLikelihood(), (2,))
        (True, False)
    """
    return likelihood.bin_width is None or len(shape) == 3


def check_pictures(batch: Any, shape: Shape, likelihood: Any = None) -> None:
    """Checks the examples of a batch, an array or a dictionary with the key `"images"`.

    Raises:
        TypeError: if the examples are not floating-point numbers.
        ValueError: if the batch has no examples, or they fail another check of `check_data`.
    """
    if isinstance(batch, dict) and "images" not in batch:
        raise ValueError(f'A batch must have the key "images". Received keys: {sorted(batch)}.')
    check_data("x", batch["images"] if isinstance(batch, dict) else batch, shape, likelihood)


def _list(shape: Shape) -> str:
    return ", ".join(map(str, shape))
