"""`kgen export`: a model as a SavedModel, which TensorFlow runs without kgen."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kgen.cli.errors import UsageError, arguments_from_user
from kgen.cli.models import open_model
from kgen.serving.capabilities import has_solver

if TYPE_CHECKING:
    from kgen.cli.session import Result, Session


def run(args: argparse.Namespace, session: Session) -> Result:
    """Writes the SavedModel.

    Raises:
        CommandError: if the model cannot be opened.
        UsageError: if there is no such model, the model does not have an option, or the output
            folder holds other files.
    """
    import tensorflow as tf

    import kgen

    model, _ = open_model(args.model, session)
    options = {"solver": args.solver, "inputs": args.inputs}
    options |= {"editing": args.editing or None, "negatives": args.negatives or None}
    options = {name: value for name, value in options.items() if value is not None}
    if options and not has_solver(model):
        name = next(iter(options))
        raise UsageError(f"a {type(model).__name__} has no option --{name}")
    session.say(f"Writing {args.output}")
    with arguments_from_user():
        try:
            kgen.export_saved_model(
                model,
                args.output,
                max_steps=args.max_steps,
                max_batch=args.max_batch,
                warm_up=args.warm_up,
                **options,
            )
        except FileExistsError as error:
            raise UsageError(str(error)) from error
    names = sorted(tf.saved_model.load(str(args.output)).signatures)
    size = sum(p.stat().st_size for p in args.output.rglob("*") if p.is_file())
    result = {"directory": str(args.output), "functions": names, "bytes": size}
    return result, [
        f"Wrote {args.output} ({size / 1e6:.1f} MB)",
        f"functions: {', '.join(names)}",
    ]
