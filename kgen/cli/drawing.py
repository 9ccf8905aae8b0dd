"""Generation with any model, with a seed for each picture.

A model with a solver takes one seed for each picture of a batch. Another model, such as a VAE,
takes one seed for a call, so it generates one picture at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kgen.cli.errors import UsageError, arguments_from_user
from kgen.cli.models import parse_condition
from kgen.serving.capabilities import has_solver

if TYPE_CHECKING:
    import numpy as np

    from kgen.cli.session import Session
    from kgen.models.generative_model import GenerativeModel

SOLVER_OPTIONS = ("negative", "steps", "guidance", "solver", "size")


def settings_of(model: GenerativeModel, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of a solver by the names of their options, with defaults filled in.

    Args:
        model: the model.
        args: the parsed arguments.

    Returns:
        `steps`, `guidance`, `solver` and `size`; empty for a model without a solver.
    """
    if not has_solver(model):
        return {}
    defaults = {
        "steps": model.default_num_steps,
        "guidance": model.default_guidance_scale,
        "solver": model.default_solver,
        "size": None,
    }
    values = {name: getattr(args, name, None) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in values.items()}


def draw(
    model: GenerativeModel,
    args: argparse.Namespace,
    session: Session,
    seeds: Sequence[int],
    condition: Any = None,
    **options: Any,
) -> np.ndarray:
    """Generates one picture for each seed.

    Args:
        model: a model that generates pictures.
        args: the parsed arguments, of which those of the solver are used.
        session: the `Session`.
        seeds: N integers.
        condition: None, or one condition for each seed or for all.
        **options: other arguments of `model.generate`, such as `images` or `trajectory`.

    Returns:
        uint8 `[N, H, W, C]`; with `trajectory`, `[N, num_steps, H, W, C]`.

    Raises:
        UsageError: if the model does not have an option, or does not accept its value.
    """
    import numpy as np

    if not has_solver(model):
        unsupported = [name for name in SOLVER_OPTIONS if getattr(args, name, None) is not None]
        unsupported = [f"--{name}" for name in unsupported] + sorted(options)
        if unsupported:
            raise UsageError(
                f"a {type(model).__name__} generates in one step: it has no {unsupported[0]}"
            )
        one_each = isinstance(condition, list) and len(condition) == len(seeds)
        with arguments_from_user():
            return np.concatenate(
                [
                    model.generate(
                        1, condition=condition[i : i + 1] if one_each else condition, seed=seed
                    )
                    for i, seed in enumerate(seeds)
                ]
            )
    if model.conditioner is None:
        options["num_samples"] = len(seeds)
    negative = None if args.negative is None else parse_condition(model, [args.negative])
    with arguments_from_user():
        return model.generate(
            condition,
            seed=list(seeds),
            negative=negative,
            num_steps=args.steps,
            guidance_scale=args.guidance,
            solver=args.solver,
            batch_size=args.batch_size,
            verbose=session.progress_bar,
            **options,
        )
