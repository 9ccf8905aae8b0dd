"""`kgen finetune`: a model trained further on a folder of pictures."""

import math

from kgen.cli import training
from kgen.cli.errors import UsageError
from kgen.cli.models import check_draws_pictures, open_model
from kgen.serving.typed import class_names, takes


def run(args, session):
    """Trains and writes; returns the result as a dictionary, and lines for a person."""
    if not args.folder.is_dir():
        raise UsageError(f"no folder {args.folder}")
    from kgen.distribution import default_precision

    model, _ = open_model(args.model, session, default_precision())
    check_draws_pictures(model)
    if args.lora is not None and not hasattr(model, "enable_lora"):
        raise UsageError(f"--lora needs a model that denoises, not a {type(model).__name__}")
    wanted = takes(model)
    if wanted == "other":
        raise UsageError("the model takes neither texts nor classes; use `model.fit` in Python")
    return training.run(
        args,
        session,
        "finetune",
        lambda pictures: _with_lora(model, args, session),
        wanted,
        model.data_shape,
        class_names(model),
    )


def _with_lora(model, args, session):
    """The model; with a rank it has a LoRA, of its attention if there is any."""
    rank = args.lora
    if rank is None:
        return model
    import keras

    keras.utils.set_random_seed(args.seed % 2**32)  # of the first factors
    if model.lora is not None:
        model.merge_lora()
    number = sum(math.prod(variable.shape) for variable in model.network.variables)
    try:
        trained = model.enable_lora(rank)
    except ValueError:  # a network without attention
        trained = model.enable_lora(rank, targets="dense")
    session.say(f"LoRA of rank {rank}: {trained:,} of {number:,} weights are trained")
    return model
