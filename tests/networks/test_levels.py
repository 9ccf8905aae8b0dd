"""Options by level."""

import pytest

from kgen.networks.levels import by_level


def test_one_value_is_for_every_level():
    assert by_level("blocks", 2, 3) == (2, 2, 2)
    assert by_level("blocks", [1, 2], 2) == (1, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((1, 2), "`blocks` must have one entry per level"),
        ((1, 0, 1), "`blocks` must be at least 1"),
    ],
)
def test_other_lengths_and_values_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        by_level("blocks", value, 3)
