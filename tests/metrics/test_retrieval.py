"""Ranks of matches, in galleries where the angles are known."""

import numpy as np
import pytest

from kgen.metrics import retrieval_ranks


def on_circle(degrees):
    angle = np.deg2rad(np.asarray(degrees, float))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_ranks_follow_the_angle_and_not_the_length():
    gallery = on_circle([0, 30, 70, 120, 180]) * [[9.0], [0.1], [5.0], [1.0], [2.0]]
    queries = on_circle([10, 10, 10, 10, 10, 110]) * 7
    # Angles to 10 degrees: 10, 20, 60, 110, 170; to 110 degrees: 110, 80, 40, 10, 70.
    ranks = retrieval_ranks(queries, gallery, [0, 1, 2, 3, 4, 1])
    assert ranks.tolist() == [1, 2, 3, 4, 5, 4]


def test_a_picture_finds_itself():
    gallery = np.random.default_rng(0).normal(size=(50, 16))
    assert np.all(retrieval_ranks(gallery * 3, gallery, np.arange(50)) == 1)


def test_without_information_every_rank_is_as_likely():
    rng = np.random.default_rng(0)
    queries, gallery = rng.normal(size=(4000, 8)), rng.normal(size=(20, 8))
    ranks = retrieval_ranks(queries, gallery, rng.integers(0, 20, 4000))
    counts = np.bincount(ranks, minlength=21)[1:]
    # Multinomial with 200 expected: a standard deviation is 13.8.
    assert counts.sum() == 4000
    assert np.all(np.abs(counts - 200) < 5 * 13.8)


def test_ties_and_empty_features_count_against_the_query():
    gallery = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]
    assert retrieval_ranks([[1.0, 0.0]], gallery, [0]).tolist() == [2]
    assert retrieval_ranks([[0.0, 0.0]], gallery, [0]).tolist() == [3]


@pytest.mark.parametrize(
    ("queries", "gallery", "matches", "message"),
    [
        ([[1.0, 2.0]], [[1.0]], [0], "one size"),
        ([[1.0]], [[1.0]], [1], "rows of the gallery"),
        ([[1.0]], [[1.0]], [-1], "rows of the gallery"),
        ([[1.0]], [[1.0]], [0, 0], "one integer for each"),
        ([[1.0]], [[1.0]], [0.0], "one integer for each"),
        ([[np.nan]], [[1.0]], [0], "`queries` must be finite"),
        ([[1.0]], [1.0], [0], "`gallery` must be finite"),
    ],
)
def test_wrong_arguments(queries, gallery, matches, message):
    with pytest.raises(ValueError, match=message):
        retrieval_ranks(queries, gallery, matches)
