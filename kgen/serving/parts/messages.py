"""Suppression of the warnings and log messages of the converters."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence(*loggers: str) -> Iterator[None]:
    """Suppresses all warnings, and the log messages of some loggers, in a context.

    Args:
        *loggers: names of loggers.

    Example:
        >>> with silence("absl"):
        ...     logging.getLogger("absl").isEnabledFor(logging.WARNING)
        False
    """
    found = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(found, levels):
            logger.setLevel(level)
