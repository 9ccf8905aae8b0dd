"""What `generate` is asked for, as rows, numbers and seeds."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import Labels, Several, Vector
from kgen.sampling.request import (
    condition_and_number,
    condition_rows,
    rows_of,
    seeds_and_indices,
    slices,
    start_of,
)
from kgen.tensors import as_seed

LABELS = Labels(5, 3)
SHAPE = (2, 2, 3)
IMAGES = np.zeros((3, 4, 4, 3), "float32")


def test_without_a_conditioner_the_number_is_asked_for():
    assert condition_and_number(None, None, 4) == (None, 4)
    with pytest.raises(ValueError, match="`num_samples` must be given to a model without"):
        condition_and_number(None, None, None)
    with pytest.raises(ValueError, match="needs a model with a conditioner.*num_samples=4"):
        condition_and_number(None, 4, None)
    with pytest.raises(ValueError, match="`condition` needs a model with a conditioner.$"):
        condition_and_number(None, ["a"], None)


def test_with_a_condition_the_number_is_how_many_for_each():
    rows, num = condition_and_number(LABELS, [3, 1], None)
    assert (rows.numpy().tolist(), num) == ([3, 1], 2)
    rows, num = condition_and_number(LABELS, [3, 1], 3)
    assert (rows.numpy().tolist(), num) == ([3, 3, 3, 1, 1, 1], 6)
    with pytest.raises(ValueError, match="`condition` must be given to a model with a condit"):
        condition_and_number(LABELS, None, 4)


def test_rows_of_several_conditions_are_repeated_together():
    both = Several({"kind": LABELS, "place": Vector(2, 3)})
    values = {"kind": [3, 1], "place": [[0.0, 1.0], [2.0, 3.0]]}
    rows, num = condition_and_number(both, values, 2)
    assert num == 4
    np.testing.assert_array_equal(rows["kind"], [3, 3, 1, 1])
    np.testing.assert_array_equal(rows["place"][:, 0], [0, 0, 2, 2])


def test_embeddings_are_taken_as_they_are():
    cond = {"pooled": np.arange(6.0, dtype="float32").reshape(2, 3)}
    rows, num = condition_and_number(LABELS, cond, 2)
    assert num == 4
    np.testing.assert_array_equal(rows["pooled"][:, 0], [0, 0, 3, 3])


def test_one_condition_serves_all_examples():
    np.testing.assert_array_equal(condition_rows(LABELS, 2, 3), [2, 2, 2])
    np.testing.assert_array_equal(condition_rows(LABELS, [2, 1, 0], 3), [2, 1, 0])
    assert condition_rows(LABELS, None, 3) is None
    with pytest.raises(ValueError, match="`negative` must be one for all .*: 2 for 3 examples"):
        condition_rows(LABELS, [1, 2], 3, "negative")
    with pytest.raises(ValueError, match="`negative` does not fit the model: `labels` must be in"):
        condition_rows(LABELS, [7], 3, "negative")
    with pytest.raises(TypeError, match="`condition` does not fit the model: .* integers"):
        condition_rows(LABELS, [0.5])


def test_one_seed_is_told_apart_by_the_index():
    seeds, indices = seeds_and_indices(7, 3)
    np.testing.assert_array_equal(seeds, [as_seed(7)] * 3)
    np.testing.assert_array_equal(indices, [0, 1, 2])


@pytest.mark.parametrize("seed", [[7, 8, 7], (7, 8, 7), np.array([7, 8, 7])])
def test_seeds_of_examples_have_no_index(seed):
    seeds, indices = seeds_and_indices(seed, 3)
    np.testing.assert_array_equal(seeds, [as_seed(7), as_seed(8), as_seed(7)])
    np.testing.assert_array_equal(indices, [0, 0, 0])


def test_without_a_seed_each_call_has_another():
    one, other = (seeds_and_indices(None, 2)[0].numpy() for _ in range(2))
    assert (one[0] == one[1]).all()
    assert (one != other).any()


@pytest.mark.parametrize("seed", [[1, 2], [1, 2, 3, 4], [1.5, 2.0, 3.0], "a", 1.5, [[1], [2], [3]]])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match="`seed` must be None, an integer, or 3 integers"):
        seeds_and_indices(seed, 3)


def test_where_sampling_begins():
    assert start_of(3, SHAPE, None, None, None, None) == {}
    assert float(start_of(3, SHAPE, None, IMAGES, None, None)["strength"]) == pytest.approx(0.6)
    assert float(start_of(3, SHAPE, None, IMAGES, 0.3, None)["strength"]) == pytest.approx(0.3)
    mask = np.ones((1, 4, 4, 1))
    given = start_of(3, SHAPE, None, IMAGES, None, mask)
    assert float(given["strength"]) == 1.0
    assert given["mask"].shape == (3, 4, 4, 1)
    noise = np.zeros((3, *SHAPE), "float32")
    given = start_of(3, SHAPE, noise, IMAGES, None, mask)
    assert sorted(given) == ["mask", "noise"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"noise": np.zeros((2, *SHAPE))}, ValueError, "`noise` must have shape"),
        ({"noise": np.full((3, *SHAPE), np.nan)}, ValueError, "`noise` must be finite"),
        ({"noise": np.zeros((3, *SHAPE), int)}, TypeError, "`noise` must be a floating-point"),
        ({"noise": np.zeros((3, *SHAPE)), "images": IMAGES}, ValueError, "without a `mask`"),
        ({"strength": 0.5}, ValueError, "`strength` and `mask` need `images`"),
        ({"mask": np.ones((1, 4, 4, 1))}, ValueError, "`strength` and `mask` need `images`"),
        ({"images": IMAGES[:2]}, ValueError, "`images` must be 3 examples"),
        ({"images": IMAGES, "strength": 0.0}, ValueError, r"`strength` must be in \(0, 1\]"),
        ({"images": IMAGES, "strength": "1"}, TypeError, "`strength` must be a number"),
        ({"images": IMAGES, "mask": np.ones((2, 4, 4, 1))}, ValueError, "`mask` must have shape"),
        ({"images": IMAGES, "mask": np.ones((1, 4, 4, 3))}, ValueError, "`mask` must have shape"),
        ({"images": IMAGES, "mask": np.full((1, 4, 4, 1), 2)}, ValueError, "`mask` must be in"),
        ({"images": IMAGES, "mask": np.full((1, 4, 4, 1), np.nan)}, ValueError, "`mask` must be"),
        ({"images": IMAGES, "mask": np.full((1, 4, 4, 1), "a")}, TypeError, "must hold numbers"),
    ],
)
def test_what_sampling_cannot_begin_from(options, error, message):
    given = {"noise": None, "images": None, "strength": None, "mask": None, **options}
    with pytest.raises(error, match=message):
        start_of(3, SHAPE, **given)


def test_parts_are_all_rows_once():
    assert list(slices(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    values = {"a": tf.range(5), "scale": tf.constant(3.0), "nothing": None}
    part = rows_of(values, slice(2, 4))
    assert part["a"].numpy().tolist() == [2, 3]
    assert (float(part["scale"]), part["nothing"]) == (3.0, None)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        list(slices(5, 0))
