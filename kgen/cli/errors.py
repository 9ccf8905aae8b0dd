"""Errors of the command, each one line for a person, with the exit code of the process.

1 is for what went wrong while working, 2 for what was asked for in a way that cannot be done.
"""

import contextlib
import re

_FLAGS = {  # arguments of the library by the option that a person has typed
    "num_steps": "--steps",
    "guidance_scale": "--guidance",
    "num_samples": "--count",
    "solver": "--solver",
    "size": "--size",
    "seed": "--seed",
    "negative": "--negative",
    "strength": "--strength",
    "mask": "--mask",
    "condition": "the prompt",
    "batch_size": "--batch-size",
    "directory": "the folder",
    "max_steps": "--max-steps",
    "max_batch": "--max-batch",
    "inputs": "--inputs",
    "parts": "--parts",
    "dtype": "--dtype",
    "max_count": "--max-count",
    "max_queue": "--max-queue",
    "timeout": "--timeout",
}


class CommandError(Exception):
    """What went wrong, in one line."""

    code = 1


class UsageError(CommandError):
    """What was asked for in a way that cannot be done, in one line."""

    code = 2


@contextlib.contextmanager
def arguments_from_user():
    """Within it, errors of the library about its arguments are those of the person's options."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(with_flags(one_line(error))) from error


@contextlib.contextmanager
def files_from_user(what):
    """Within it, errors of reading are told as those of `what`, with exit code 1."""
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise CommandError(f"{what}: {one_line(error)}") from error


def one_line(error, limit=400):
    r"""Returns the message of an error in one line of at most `limit` characters.

    Example:
        >>> one_line(ValueError("first\n  second"))
        'first second'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def with_flags(text):
    """Returns a message of the library in the words of the command line.

    Example:
        >>> with_flags("`num_steps` must be at least 1.")
        '--steps must be at least 1.'
    """
    return re.sub(r"`(\w+)`", lambda match: _FLAGS.get(match[1], match[0]), text)
