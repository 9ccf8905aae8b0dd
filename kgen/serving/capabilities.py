"""Properties of a model that a command line or a server needs: its sampling and its condition."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from kgen.models.generative_model import GenerativeModel

ConditionKind: TypeAlias = Literal["texts", "classes", "other"] | None
"""What a model is conditional on; `"other"` for values that cannot be typed, None for nothing."""


def has_solver(model: GenerativeModel) -> bool:
    """Returns whether a model generates with a solver, in a number of steps."""
    generate = getattr(model, "generate", None)
    return generate is not None and "num_steps" in inspect.signature(generate).parameters


def condition_kind(model: GenerativeModel) -> ConditionKind:
    """Returns what a model is conditional on.

    Returns:
        `"texts"` for prompts, `"classes"` for integers, `"other"` for other values, and None for a
        model without a conditioner.
    """
    if model.conditioner is None:
        return None
    specs = list(model.conditioner.signature().values())
    if len(specs) == 1 and specs[0].shape.rank == 1:
        if specs[0].dtype.name == "string":
            return "texts"
        if specs[0].dtype.is_integer:
            return "classes"
    return "other"


def class_names(model: GenerativeModel) -> list[str] | None:
    """Returns the names of the classes of a model, or None if it has none."""
    names = getattr(model.conditioner, "names", None)
    return list(names) if names else None
