"""`kgen finetune`: the training of a model continued on a folder of pictures."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from kgen.cli import training
from kgen.cli.errors import UsageError
from kgen.cli.models import check_generates_pictures, open_model
from kgen.serving.capabilities import class_names, condition_kind

if TYPE_CHECKING:
    from kgen.cli.session import Result, Session
    from kgen.models.generative_model import GenerativeModel


def run(args: argparse.Namespace, session: Session) -> Result:
    """Trains the model and writes it.

    Raises:
        CommandError: if the model cannot be opened, or a file cannot be written.
        KeyboardInterrupt: after Ctrl-C, once the training is saved.
        UsageError: if the folder or the model does not exist, or they do not fit each other.
    """
    if not args.folder.is_dir():
        raise UsageError(f"no folder {args.folder}")
    from kgen.distribution import default_precision

    model, _ = open_model(args.model, session, default_precision())
    check_generates_pictures(model)
    if args.lora is not None and not hasattr(model, "enable_lora"):
        raise UsageError(f"--lora needs a diffusion model, not a {type(model).__name__}")
    kind = condition_kind(model)
    if kind == "other":
        raise UsageError("the model takes neither texts nor classes; use `model.fit` in Python")
    return training.run(
        args,
        session,
        "finetune",
        lambda pictures: _with_lora(model, args, session),
        kind,
        model.data_shape,
        class_names(model),
    )


def _with_lora(
    model: GenerativeModel, args: argparse.Namespace, session: Session
) -> GenerativeModel:
    """Adds a LoRA of the rank of `--lora`, if given, to the attention or else the dense layers."""
    rank = args.lora
    if rank is None:
        return model
    import keras

    keras.utils.set_random_seed(args.seed % 2**32)  # for the initial factors
    if model.lora is not None:
        model.merge_lora()
    number = sum(math.prod(variable.shape) for variable in model.network.variables)
    try:
        trained = model.enable_lora(rank)
    except ValueError:  # a network without attention
        trained = model.enable_lora(rank, targets="dense")
    session.say(f"LoRA of rank {rank}: {trained:,} of {number:,} weights are trained")
    return model
