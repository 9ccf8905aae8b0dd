"""`kgen finetune`: a model trained further on a folder of pictures."""

from kgen.cli import training
from kgen.cli.errors import UsageError
from kgen.cli.models import check_draws_pictures, open_model
from kgen.serving.typed import class_names, takes


def run(args, session):
    """Trains and writes; returns the result as a dictionary, and lines for a person."""
    if args.lora is not None:
        raise UsageError("--lora is not there yet: leave it out, and all weights are trained")
    if not args.folder.is_dir():
        raise UsageError(f"no folder {args.folder}")
    from kgen.distribution import default_precision

    model, _ = open_model(args.model, session, default_precision())
    check_draws_pictures(model)
    wanted = takes(model)
    if wanted == "other":
        raise UsageError("the model takes neither texts nor classes; use `model.fit` in Python")
    return training.run(
        args,
        session,
        "finetune",
        lambda pictures: model,
        wanted,
        model.data_shape,
        class_names(model),
    )
