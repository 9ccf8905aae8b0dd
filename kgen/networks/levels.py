"""Options of a network that may differ between its levels of resolution."""

from kgen.checks import check_count


def by_level(name: str, value: int | tuple[int, ...], levels: int) -> tuple:
    """Returns one value per level, given one value for all levels or one value per level.

    Args:
        name: name of the argument, for messages.
        value: an integer of at least 1, or a tuple of such integers.
        levels: number of levels.

    Raises:
        TypeError: if a value is not a number.
        ValueError: if a tuple has another length, or a value is not an integer of at least 1.

    Example:
        >>> by_level("blocks", 2, 3)
        (2, 2, 2)
    """
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * levels
    for item in values:
        check_count(name, item)
    if len(values) != levels:
        raise ValueError(
            f"`{name}` must have one entry per level of `channels`, {levels}. "
            f"Received: {name}={value}."
        )
    return values
