"""Labels and prompts at the door: one for each example, or one for all."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import Labels
from kgen.sampling.conditions import as_rows


def test_one_is_that_of_all(hashed_words):
    for labels in (2, [2], np.array([2])):
        np.testing.assert_array_equal(as_rows(Labels(3), labels, 4), [2, 2, 2, 2])
    for prompts in ("a", ["a"], np.array(["a"]), tf.constant("a")):
        np.testing.assert_array_equal(as_rows(hashed_words, prompts, 2), [b"a", b"a"])


def test_several_are_one_for_each(hashed_words):
    np.testing.assert_array_equal(as_rows(Labels(3), (2, 0), 2), [2, 0])
    np.testing.assert_array_equal(as_rows(hashed_words, ["a", "b c"]), [b"a", b"b c"])


def test_without_a_conditioner_there_is_nothing_to_tell():
    assert as_rows(None, 3) is None
    with pytest.raises(ValueError, match="`negative_prompts` needs a model with a conditioner"):
        as_rows(None, 3, name="negative_prompts")
    assert as_rows(None, None, 3, "conditions") is None


@pytest.mark.parametrize("values", [[0, 1], [], [[0]], [0, [1]], None, {}])
def test_wrong_labels(values):
    with pytest.raises(ValueError, match="`labels` must be one for"):
        as_rows(Labels(3), values, 3)


def test_wrong_prompts(hashed_words):
    with pytest.raises(ValueError, match="`negative_prompts` must be one for.*2 for 3 examples"):
        as_rows(hashed_words, ["a", "b"], 3, "negative_prompts")
    with pytest.raises(TypeError, match="`negative_prompts` must be a string"):
        as_rows(hashed_words, ["a", 1], 3, "negative_prompts")
