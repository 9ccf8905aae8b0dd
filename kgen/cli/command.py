"""The way from a command line to an exit code: 0 done, 1 failed, 2 wrong use, 130 Ctrl-C."""

import importlib
import json
import os
import sys

from kgen.cli.arguments import parser
from kgen.cli.errors import CommandError, one_line
from kgen.cli.session import INTERRUPTED, Session


def main(argv=None):
    """Runs the command in this process.

    Args:
        argv: the arguments behind `kgen`; None for those of the process.

    Returns:
        The exit code.
    """
    try:
        args = parser().parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    session = Session(quiet=args.quiet or args.json)
    try:
        with session.working():
            result, lines = importlib.import_module(args.module).run(args, session)
    except KeyboardInterrupt as interrupt:
        return _failed(one_line(interrupt).replace("KeyboardInterrupt", "Interrupted."), 130, "")
    except CommandError as error:
        return _failed(error, error.code, f"kgen {args.name}: error: ")
    except BrokenPipeError:
        raise
    except Exception as error:
        if args.traceback:
            raise
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return _failed(kind + one_line(error), 1, f"kgen {args.name}: error: ")
    print(json.dumps(result, indent=1, default=str) if args.json else "\n".join(lines))
    return 0


def run_process():
    """Runs the command as a process, which ends here."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == INTERRUPTED:  # without what TensorFlow has to end first
        os._exit(code)
    sys.exit(code)


def _failed(message, code, start):
    print(f"{start}{message}", file=sys.stderr)
    return code
