"""Frechet distance, KID, precision and recall, active units: closed forms and brute force."""

import numpy as np
import pytest

from kgen.metrics import active_units, frechet_distance, kernel_distance, precision_recall

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(60, 4)), RNG.normal(size=(80, 4)) @ RNG.normal(size=(4, 4)) + 0.5


def test_frechet_distance_by_the_eigenvalues_of_the_product():
    """tr (C_a C_b)^1/2 is the sum of the roots of the eigenvalues of C_a C_b."""
    c_a, c_b = np.cov(A.T), np.cov(B.T)
    roots = np.sqrt(np.linalg.eigvals(c_a @ c_b).real).sum()
    expected = ((A.mean(0) - B.mean(0)) ** 2).sum() + np.trace(c_a + c_b) - 2 * roots
    assert frechet_distance(A, B) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(A, A) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(B, A) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_scaled_data():
    """For b = 3 a + shift: |m_a - m_b|^2 + (3 - 1)^2 tr C_a."""
    b = 3 * A + 1
    expected = ((b.mean(0) - A.mean(0)) ** 2).sum() + 4 * np.trace(np.cov(A.T))
    assert frechet_distance(A, b) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_where_covariances_are_singular():
    few = RNG.normal(size=(3, 10))
    assert np.isfinite(frechet_distance(few, few + 1))
    assert frechet_distance(few, few + 1) == pytest.approx(10, rel=1e-6)


def test_kernel_distance_by_explicit_sums():
    def kernel(x, y):
        return (x @ y / 4 + 1) ** 3

    a, b = A[:12], B[:12]
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    expected = np.mean([kernel(a[i], a[j]) + kernel(b[i], b[j]) for i, j in pairs])
    expected -= 2 * np.mean([kernel(x, y) for x in a for y in b])
    mean, error = kernel_distance(a, b, num_subsets=3)
    assert mean == pytest.approx(expected, rel=1e-8)
    assert error == pytest.approx(0, abs=1e-8)


def test_kernel_distance_of_equal_distributions_is_zero_on_average():
    x = np.random.default_rng(1).normal(size=(4000, 4))
    mean, error = kernel_distance(x[:2000], x[2000:], num_subsets=50, subset_size=200)
    assert abs(mean) < 0.05
    assert kernel_distance(x[:2000], x[2000:] + 0.5, subset_size=200)[0] > 10 * error


def test_precision_and_recall_by_brute_force():
    def share(points, centres, k):
        distance = np.linalg.norm(centres[:, None] - centres, axis=-1)
        radius = np.sort(distance, axis=1)[:, k]
        return np.mean([(np.linalg.norm(p - centres, axis=-1) <= radius).any() for p in points])

    precision, recall = precision_recall(A, B, k=2)
    assert precision == pytest.approx(share(B, A, 2))
    assert recall == pytest.approx(share(A, B, 2))
    assert precision_recall(A, A, k=3) == (1.0, 1.0)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_precision_and_recall_do_not_depend_on_the_scale(scale):
    """With samples that are real pictures and some that only nearly are."""
    b = np.concatenate([A[:10], A[10:20] + 0.01, B])
    expected = precision_recall(A, b, k=2)
    assert 0 < min(expected) < 1
    assert precision_recall(A * scale, b * scale, k=2) == expected


def test_active_units_vary_over_the_data():
    means = np.stack([np.full(50, 3.0), np.linspace(-1, 1, 50), RNG.normal(size=50) * 0.05], 1)
    assert active_units(means).tolist() == [False, True, False]


@pytest.mark.parametrize("function", [frechet_distance, kernel_distance, precision_recall])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (A[0], B, "must be finite numbers"),
        (A[:1], B, "must be finite numbers"),
        (np.full((5, 4), np.nan), B, "must be finite numbers"),
        (A[:, :3], B, "of one size"),
    ],
)
def test_wrong_features_are_refused(function, a, b, message):
    with pytest.raises(ValueError, match=message):
        function(a, b)


def test_other_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        precision_recall(A, B, k=60)
    with pytest.raises(ValueError, match="`means` must be"):
        active_units(np.zeros((1, 3)))
