"""`kgen export`: a model for programs without kgen, as a SavedModel or network by network."""

from kgen.cli.errors import CommandError, UsageError, arguments_from_user, one_line
from kgen.cli.models import open_model
from kgen.serving.typed import denoises

OF_SAVED_MODELS = ("inputs", "editing", "negatives", "from_noise", "warm_up")
RUNTIMES = {"both": ("litert", "onnx"), "litert": "litert", "onnx": "onnx"}  # of `--parts`


def run(args, session):
    """Writes the export; returns the result as a dictionary, and lines for a person."""
    import kgen

    if args.parts is not None:
        for name in OF_SAVED_MODELS:
            if getattr(args, name):
                raise UsageError(f"--{name.replace('_', '-')} is of SavedModels, without --parts")
    model, _ = open_model(args.model, session)
    options = {"solver": args.solver, "inputs": args.inputs}
    for name in ("editing", "negatives", "from_noise"):
        options[name] = getattr(args, name) or None
    options = {name: value for name, value in options.items() if value is not None}
    if options and not denoises(model):
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
    what, names = _written(args.output, args.parts)
    result = {"directory": str(args.output), what: names, "bytes": size}
    return result, [
        f"Wrote {args.output} ({size / 1e6:.1f} MB)",
        f"{what}: {', '.join(names)}",
    ]


def _written(folder, parts):
    """What is in an export: its functions, or the files of its parts."""
    if parts is not None:
        names = [p.name for p in folder.iterdir() if p.suffix in (".tflite", ".onnx")]
        return "files", sorted(names)
    import tensorflow as tf

    return "functions", sorted(tf.saved_model.load(str(folder)).signatures)
