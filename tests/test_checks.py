"""Each check with every bad value of its kind, and with the values at the ends of what is good."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from kgen import checks
from kgen.likelihoods import Bernoulli, GaussianLikelihood, LogisticMixture
from kgen.priors import GaussianMixture, StandardNormal, VampPrior

NAN, INF = float("nan"), float("inf")
NO_NUMBER = ["3", None, [1, 2], {}, 1j, b"1", True, np.array([1.0])]


def check_interval(interval):
    return lambda name, value: checks.check_interval(name, value, interval)


# A check, good values, and bad values that are numbers; what is no number is bad for all.
NUMBERS = {
    "count": (checks.check_count, [1, 7, np.int64(3)], [0, -1, 2.5, 1.0, NAN, INF]),
    "positive": (checks.check_positive, [1e-9, 3, np.float32(2.5)], [0, -1.0, NAN, INF, -INF]),
    "at least 0": (
        lambda name, value: checks.check_positive(name, value, zero=True),
        [0, 0.0, 1e9],
        [-1e-9, NAN, INF, -INF],
    ),
    "number": (checks.check_number, [-1e30, 0, 2.5, np.int32(7)], [NAN, INF, -INF]),
    "[0, 1]": (check_interval("[0, 1]"), [0, 1, 0.5], [-1e-9, 1.1, NAN, INF]),
    "(0, 1]": (check_interval("(0, 1]"), [1e-9, 1], [0, 1.1, NAN]),
    "[0, 1)": (check_interval("[0, 1)"), [0, 0.999], [1, -0.1, NAN]),
    "[2, inf)": (check_interval("[2, inf)"), [2, 1e30], [1.99, INF, NAN]),
    "(0, inf]": (check_interval("(0, inf]"), [1e-9, INF], [0, -INF, NAN]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers(kind):
    check, good, bad = NUMBERS[kind]
    for value in good:
        check("x", value)
    for value in bad:
        with pytest.raises(ValueError, match="`x` must be .*Received: x="):
            check("x", value)
    for value in NO_NUMBER:
        with pytest.raises(TypeError, match="`x` must be a number. Received: x="):
            check("x", value)


@pytest.mark.parametrize("value", ["", "c", "A", 3, NAN, ["a"], {}, b"a", None])
def test_names(value):
    checks.check_one_of("x", "a", {"b": 1, "a": 2})
    with pytest.raises(ValueError, match=r"`x` must be one of \['a', 'b'\]. Received: x="):
        checks.check_one_of("x", value, {"b": 1, "a": 2})


@pytest.mark.parametrize("value", [None, 3, NAN, [], {}, ["a"], True])
def test_paths(value):
    assert checks.check_path("x", "a/b") == pathlib.Path("a/b")
    assert checks.check_path("x", pathlib.Path("a")) == pathlib.Path("a")
    with pytest.raises(TypeError, match="`x` must be a path. Received: x="):
        checks.check_path("x", value)


GOOD = np.full((3, 4, 4, 1), 0.5, "float32")


def with_value(value):
    x = GOOD.copy()
    x[1, 2, 3] = value
    return x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (with_value(NAN), ValueError, "`x` must be finite"),
        (with_value(INF), ValueError, "`x` must be finite"),
        (with_value(-INF), ValueError, "`x` must be finite"),
        (with_value(1.01), ValueError, r"`x` must be in \[0, 1\] for Bernoulli.*1.01\]"),
        (with_value(-0.01), ValueError, r"`x` must be in \[0, 1\] for Bernoulli"),
        (GOOD[..., 0], ValueError, r"`x` must have shape \[N, 4, 4, 1\]"),
        (GOOD[:, :3], ValueError, r"`x` must have shape \[N, 4, 4, 1\]"),
        (np.repeat(GOOD, 3, -1), ValueError, r"`x` must have shape \[N, 4, 4, 1\]"),
        (np.array(0.5, "float32"), ValueError, r"`x` must have shape \[N, 4, 4, 1\]"),
        (GOOD[:0], ValueError, "`x` must hold at least one example"),
        (np.full(GOOD.shape, "a"), TypeError, "`x` must be a floating-point array. Received: str"),
        (np.full(GOOD.shape, None), TypeError, "`x` must be a floating-point array"),
        (GOOD.astype("complex64"), TypeError, "`x` must be a floating-point array"),
        (GOOD.astype("uint8"), TypeError, "`x` must be a floating-point array. Received: uint8"),
        ([[0.5]], TypeError, "`x` must be a floating-point array. Received: list"),
        (None, TypeError, "`x` must be a floating-point array. Received: NoneType"),
    ],
)
def test_data(x, error, message):
    with pytest.raises(error, match=message):
        checks.check_data("x", x, (4, 4, 1), Bernoulli())


def test_good_data():
    for x in (GOOD, GOOD.astype("float64"), GOOD.astype("float16"), tf.constant(GOOD)):
        checks.check_data("x", x, (4, 4, 1), Bernoulli())
    checks.check_data("x", with_value(7.0), (4, 4, 1))
    checks.check_data("x", np.full((2, 3), 7.0), (3,), GaussianLikelihood())  # a density of points
    checks.check_data("x", with_value(1 + 1e-6), (4, 4, 1), Bernoulli())  # rounding


def test_pictures_are_the_batch_or_its_entry():
    checks.check_pictures(GOOD, (4, 4, 1))
    checks.check_pictures({"images": GOOD, "labels": 3}, (4, 4, 1))
    with pytest.raises(ValueError, match=r'must have the key "images". Received .*labels'):
        checks.check_pictures({"labels": GOOD}, (4, 4, 1))
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\] for LogisticMixture"):
        checks.check_pictures({"images": with_value(-1.5)}, (4, 4, 1), LogisticMixture())


def test_ranges():
    """A Bernoulli bounds everything; a density bounds pictures alone."""
    assert checks.has_range(Bernoulli(), (2,))
    assert checks.has_range(LogisticMixture(), (2,))  # of grey levels
    assert checks.has_range(GaussianLikelihood(), (4, 4, 3))
    assert not checks.has_range(GaussianLikelihood(), (2,))


@pytest.mark.parametrize(
    ("prior", "error", "message"),
    [
        ("normal", TypeError, "`prior` must be None or an object of `kgen.priors`"),
        (VampPrior, TypeError, "`prior` must be None or an object of `kgen.priors`"),
        (3, TypeError, "`prior` must be None or an object of `kgen.priors`"),
        (StandardNormal((3,)), ValueError, r"must have latent_shape \(2,\).* \(3,\)"),
        (GaussianMixture(3, (5,)), ValueError, r"must have latent_shape \(2,\)"),
        (VampPrior(3, (4, 4, 3)), ValueError, r"must have data_shape \(4, 4, 1\)"),
        (VampPrior(3, (4, 4, 1), low=-1), ValueError, "`prior` must have low=0, as the data"),
    ],
)
def test_priors(prior, error, message):
    checks.check_prior(StandardNormal((2,)), (2,), (4, 4, 1), Bernoulli())
    with pytest.raises(error, match=message):
        checks.check_prior(prior, (2,), (4, 4, 1), Bernoulli())
