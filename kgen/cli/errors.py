"""Errors of the command. Each is shown as one line, and has the exit code of the process.

CommandError    1, a failure while the command ran, such as a file that cannot be read
UsageError      2, arguments that are wrong or that the model does not support
"""

import contextlib
import re
from collections.abc import Iterator

_OPTIONS = {  # options of the command by the arguments of the library that they become
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
    """A failure of the command, with a message of one line."""

    code = 1


class UsageError(CommandError):
    """Arguments that the command cannot use, with a message of one line."""

    code = 2


@contextlib.contextmanager
def arguments_from_user() -> Iterator[None]:
    """Turns errors about arguments of the library, in this context, into errors about options.

    Raises:
        UsageError: for a `TypeError` or `ValueError` within the context.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise UsageError(with_options(one_line(error))) from error


@contextlib.contextmanager
def files_from_user(what: str) -> Iterator[None]:
    """Turns errors of opening files, in this context, into errors of the command.

    Args:
        what: the beginning of the message, such as `"the model x cannot be opened"`.

    Raises:
        CommandError: for an `ImportError`, `OSError`, `TypeError` or `ValueError` within the
            context.
    """
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise CommandError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException, limit: int = 400) -> str:
    r"""Returns the message of an error in one line of at most `limit` characters.

    Example:
        >>> one_line(ValueError("first\n  second"))
        'first second'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def with_options(text: str) -> str:
    """Replaces names of arguments of the library in a message by options of the command.

    Example:
        >>> with_options("`num_steps` must be at least 1.")
        '--steps must be at least 1.'
    """
    return re.sub(r"`(\w+)`", lambda match: _OPTIONS.get(match[1], match[0]), text)
