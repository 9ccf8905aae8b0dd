"""Checks at the door: an error that names the argument, what it must be and what came."""

import os
import pathlib
import warnings

import numpy as np
import tensorflow as tf


def check_count(name, value):
    """Checks that a number is an integer of at least 1.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not such an integer.
    """
    _check_type(name, value)
    if not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` must be at least 1, an integer. Received: {name}={value}.")


def check_positive(name, value, zero=False):
    """Checks a number.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not finite, or negative, or 0 where that is not allowed.
    """
    _check_type(name, value)
    if not np.isfinite(value) or value < 0 or (value == 0 and not zero):
        bound = "finite and at least 0" if zero else "positive and finite"
        raise ValueError(f"`{name}` must be {bound}. Received: {name}={value}.")


def check_number(name, value):
    """Checks a number of either sign.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is not finite.
    """
    _check_type(name, value)
    if not np.isfinite(value):
        raise ValueError(f"`{name}` must be finite. Received: {name}={value}.")


def check_interval(name, value, interval):
    """Checks a number against an interval as it is written, such as `"[0, 1)"`.

    Raises:
        TypeError: if it is no number.
        ValueError: if it is outside.
    """
    _check_type(name, value)
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise ValueError(f"`{name}` must be in {interval}. Received: {name}={value}.")


def _check_type(name, value):
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}.")


def check_one_of(name, value, allowed):
    """Checks the name of an option.

    Raises:
        ValueError: if it is not one of those that are allowed.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"`{name}` must be one of {sorted(allowed)}. Received: {name}={value!r}.")


def check_path(name, value):
    """Checks a path, and returns it as a `pathlib.Path`.

    Raises:
        TypeError: if it is none.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a path. Received: {name}={value!r}.")
    return pathlib.Path(value)


def check_prior(prior, latent_shape, data_shape, likelihood):
    """Checks that a prior is one, over codes, or with pseudo-inputs, of these shapes.

    Raises:
        TypeError: if it is no prior.
        ValueError: if it is one for another shape, or for data of another range.
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


def check_data(name, x, shape, likelihood=None):
    """Checks examples: floating, of the right shape, finite, in the range of a likelihood.

    Args:
        name: name of the argument, for the message.
        x: examples `[N, ...]`.
        shape: shape of one.
        likelihood: None, or the likelihood whose range they must be in; a density puts bounds on
            pictures only.

    Raises:
        TypeError: if `x` does not hold floating-point numbers.
        ValueError: if it fails another check.
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
        raise ValueError(f"`{name}` must hold at least one example. Received: none.")
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


def warn_of_range(x, shape, likelihood=None):
    """Warns of data that look as if they were meant for another range.

    Pictures of which no value is below 0, for a model of pictures in [-1, 1]; and numbers without
    a range, such as columns of a table, of which one is far from the order of one.

    Args:
        x: examples `[N, ...]`, an array that `check_data` has passed.
        shape: shape of one.
        likelihood: None, or the likelihood whose range they must be in.
    """
    x = np.asarray(x)
    if likelihood is not None and has_range(likelihood, shape):
        low, high = float(x.min()), float(x.max())
        if likelihood.low < 0 <= low < high and len(shape) == 3:
            warnings.warn(
                f"The pictures have no value below 0 and the model takes them in "
                f"[{likelihood.low:g}, {likelihood.high:g}], with black at {likelihood.low:g}: "
                "those in [0, 1] are put there by `2 * x - 1`. "
                f"Received: values in [{low:g}, {high:g}].",
                stacklevel=2,
            )
        return
    size = np.sqrt(np.mean(np.square(x, dtype="float64"), axis=tuple(range(x.ndim - 1))))
    if size.max() > 100:
        warnings.warn(
            f"The data have values of the order of {size.max():.3g} (root mean square of channel "
            f"{int(size.argmax())}), for which networks and learning rates are not made: subtract "
            "the mean of each channel and divide by its standard deviation.",
            stacklevel=2,
        )


def has_range(likelihood, shape):
    """Whether data of that shape must be in the range of a likelihood: a density bounds pictures.

    Example:
        >>> from kgen.likelihoods import Bernoulli, GaussianLikelihood
        >>> has_range(Bernoulli(), (2,)), has_range(GaussianLikelihood(), (2,))
        (True, False)
    """
    return likelihood.bin_width is None or len(shape) == 3


def check_pictures(batch, shape, likelihood=None):
    """Checks the examples of a batch, which is `x` or a dictionary with `"images"`.

    Raises:
        TypeError: if they are not floating-point numbers.
        ValueError: if they fail another check of `check_data`, or there are none.
    """
    if isinstance(batch, dict) and "images" not in batch:
        raise ValueError(f'A batch must have the key "images". Received keys: {sorted(batch)}.')
    check_data("x", batch["images"] if isinstance(batch, dict) else batch, shape, likelihood)


def _list(shape):
    return ", ".join(map(str, shape))
