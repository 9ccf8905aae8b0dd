"""The entry point of the command. Exit codes: 0 success, 1 failure, 2 wrong usage, 130 Ctrl-C."""

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from kgen.cli.arguments import build_parser
from kgen.cli.errors import CommandError, one_line
from kgen.cli.session import INTERRUPTED, Session


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command in this process.

    Args:
        argv: the arguments after `kgen`; None for those of the process.

    Returns:
        The exit code.

    Raises:
        BrokenPipeError: if the reader of stdout or stderr has closed it.
        Exception: whatever the command raised, with `--traceback`; `CommandError` excepted.
    """
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as exit:
        return int(exit.code or 0)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    session = Session(quiet=args.quiet or args.json)
    try:
        with session.running():
            result, lines = importlib.import_module(args.module).run(args, session)
    except KeyboardInterrupt as interrupt:
        message = one_line(interrupt).replace("KeyboardInterrupt", "Interrupted.")
        return _report(message, INTERRUPTED, "")
    except CommandError as error:
        return _report(error, error.code, f"kgen {args.name}: error: ")
    except BrokenPipeError:
        raise
    except Exception as error:
        if args.traceback:
            raise
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return _report(kind + one_line(error), 1, f"kgen {args.name}: error: ")
    print(json.dumps(result, indent=1, default=str) if args.json else "\n".join(lines))
    return 0


def run_process() -> NoReturn:
    """Runs the command and ends the process with its exit code."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:  # skips the exit handlers, since those of TensorFlow take seconds
        os._exit(code)
    sys.exit(code)


def _report(message: object, code: int, prefix: str) -> int:
    """Prints an error message to stderr; returns the exit code."""
    print(f"{prefix}{message}", file=sys.stderr)
    return code
