"""`kgen export`: a model as a SavedModel, or its networks as LiteRT and ONNX files.

Neither needs kgen to run.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from kgen.cli.errors import CommandError, UsageError, arguments_from_user, one_line
from kgen.cli.models import open_model
from kgen.serving.capabilities import has_solver

if TYPE_CHECKING:
    from kgen.cli.session import Result, Session

SAVED_MODEL_OPTIONS = ("inputs", "editing", "negatives", "from_noise", "warm_up")
RUNTIMES = {
    "both": ("litert", "onnx"),
    "litert": "litert",
    "onnx": "onnx",
}  # of --parts


def run(args: argparse.Namespace, session: Session) -> Result:
    """Writes the SavedModel or the files of the networks.

    Raises:
        CommandError: if the model cannot be opened, or a package is missing.
        UsageError: if there is no such model, the model or the format does not have an option, or
            the output folder holds other files.
    """
    import kgen

    if args.parts is not None:
        for name in SAVED_MODEL_OPTIONS:
            if getattr(args, name):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} is an option of SavedModels, not of --parts")
    model, _ = open_model(args.model, session)
    options = {"solver": args.solver, "inputs": args.inputs}
    for name in ("editing", "negatives", "from_noise"):
        options[name] = getattr(args, name) or None
    options = {name: value for name, value in options.items() if value is not None}
    if options and not has_solver(model):
        name = next(iter(options)).replace("_", "-")
        raise UsageError(f"a {type(model).__name__} has no option --{name}")
    session.say(f"Writing {args.output}")
    bounds = {"max_steps": args.max_steps, "max_batch": args.max_batch}
    try:
        with arguments_from_user():
            if args.parts is not None:
                options["parts"] = RUNTIMES[args.parts]
            else:
                options["warm_up"] = args.warm_up
            kgen.export_saved_model(model, args.output, dtype=args.dtype, **bounds, **options)
    except FileExistsError as error:
        raise UsageError(str(error)) from error
    except ImportError as error:
        raise CommandError(one_line(error)) from error
    size = sum(p.stat().st_size for p in args.output.rglob("*") if p.is_file())
    if args.parts is None:
        kind, names = "functions", _functions(args.output)
    else:
        kind, names = "files", _files(args.output)
    result = {"directory": str(args.output), kind: names, "bytes": size}
    return result, [
        f"Wrote {args.output} ({size / 1e6:.1f} MB)",
        f"{kind}: {', '.join(names)}",
    ]


def _functions(directory: pathlib.Path) -> list[str]:
    """Returns the names of the functions of a SavedModel."""
    import tensorflow as tf

    return sorted(tf.saved_model.load(str(directory)).signatures)


def _files(directory: pathlib.Path) -> list[str]:
    """Returns the names of the LiteRT and ONNX files in a folder."""
    return sorted(p.name for p in directory.iterdir() if p.suffix in (".tflite", ".onnx"))
