"""Several conditions: side by side, each missing one in its null form."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import Labels, Picture, Several, Vector

X = np.linspace(-1, 1, 24, dtype="float32").reshape(2, 2, 2, 3)


def three():
    return Several({"kind": Labels(3, 4), "place": Vector(2, 5), "seen": Picture((2, 2, 3))})


def test_conditions_are_side_by_side():
    several = three()
    labels, vector, _ = several.conditioners.values()
    cond = several({"kind": [2, 0], "place": [[0.0, 1.0], [2.0, 3.0]], "seen": X})
    np.testing.assert_array_equal(cond["pooled"][:, :4], labels([2, 0])["pooled"])
    expected = vector([[0.0, 1.0], [2.0, 3.0]])["pooled"]
    np.testing.assert_array_equal(cond["pooled"][:, 4:], expected)
    np.testing.assert_array_equal(cond["picture"], X)


def test_tokens_are_behind_one_another_with_their_masks(hashed_words):
    second = type(hashed_words)(length=2, name="second")
    second.batch_key = "others"
    several = Several({"first": hashed_words, "second": second})
    cond = several({"first": ["a b", "c"], "second": ["d", "e f"]})
    one, other = hashed_words(["a b", "c"]), second(["d", "e f"])
    for key in ("tokens", "mask"):
        np.testing.assert_array_equal(cond[key], np.concatenate([one[key], other[key]], axis=1))
    assert cond["tokens"].shape == (2, 6, 8)
    assert cond["pooled"].shape == (2, 16)


def test_what_is_left_out_is_null():
    several = three()
    labels, vector, _ = several.conditioners.values()
    cond = several({"place": [[0.0, 1.0], [2.0, 3.0]]})
    np.testing.assert_array_equal(cond["pooled"][:, :4], labels.null(2)["pooled"])
    np.testing.assert_array_equal(cond["picture"], np.zeros_like(X))
    expected = vector([[0.0, 1.0], [2.0, 3.0]])["pooled"]
    np.testing.assert_array_equal(cond["pooled"][:, 4:], expected)


def test_a_batch_has_an_entry_for_each():
    several = three()
    batch = {"images": 0, "labels": [2], "vectors": [[0.0, 1.0]], "source": X[:1]}
    values = several.values_of(batch)
    assert set(values) == {"kind", "place", "seen"}
    rows = several.prepare(values)
    assert set(several.as_batch(rows)) == {"labels", "vectors", "source"}
    with pytest.raises(ValueError, match='must have the key "vectors"'):
        several.values_of({"images": 0, "labels": [2]})


def test_all_weights_are_found():
    several = three()
    inside = [v for one in several.conditioners.values() for v in one.trainable_variables]
    assert {id(v) for v in several.trainable_variables} == {id(v) for v in inside}
    assert len(inside) == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"other": [1]}, r"keys of \['kind', 'place', 'seen'\]. Received: \['other'\]"),
        ({}, r"keys of \['kind', 'place', 'seen'\]. Received: \[\]"),
        ([1, 2], r"must be a dictionary with keys of .* Received: \[1, 2\]"),
        (None, "must be a dictionary with keys of .* Received: None"),
        ({"kind": [7]}, "`labels` must be in 0..2"),
    ],
)
def test_what_is_no_condition(values, message):
    with pytest.raises(ValueError, match=message):
        three().prepare(values)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Several({}), ValueError, "must be a dictionary of at least one"),
        (lambda: Several([Labels(2, 2)]), ValueError, "must be a dictionary of at least one"),
        (lambda: Several({"a": 3}), TypeError, "must be Conditioners. Received: 'a': 3"),
        (lambda: Several({"pooled": Labels(2, 2)}), ValueError, "must have other names than"),
        (
            lambda: Several({"a": Labels(2, 2), "b": Labels(3, 2)}),
            ValueError,
            "must each have a `batch_key` of their own. Received: .*labels",
        ),
    ],
)
def test_wrong_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_different_numbers_of_rows():
    several = three()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        several({"kind": [2, 0, 1], "place": [[0.0, 1.0], [2.0, 3.0]]})
