"""Options that may differ from level to level of a network."""

from kgen.checks import check_count


def by_level(name: str, value, levels: int) -> tuple:
    """One value for each level, from one for all or a tuple; integers of at least 1.

    Raises:
        ValueError: if a tuple has another length, or a value is not such an integer.

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
