"""The interface of a backend, which generates the pictures of the server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from kgen.serving.capabilities import ConditionKind
from kgen.serving.http.job import Drawing

OnStep: TypeAlias = Callable[[int, int, Callable[[], np.ndarray]], None]
"""The argument `on_step` of `generate`: a function of the number of finished steps, the number of
steps, and a function that returns the current estimates, uint8 `[N, H, W, C]`."""

Describe: TypeAlias = Callable[..., dict[str, str]]
"""A function of `prompt`, `negative`, `seed` and `settings` that returns metadata of a file."""


class Backend(Protocol):
    """A model that generates pictures.

    Attributes:
        name: the name of the model for clients.
        condition_kind: what the model is conditional on.
        classes: the names of its classes, or None.
        styles: styles that the page suggests.
        shape: shape of its pictures, `(H, W, C)`.
        sizes: the sizes that clients may request, `(height, width)`; the first is the default.
        edits: whether the model can edit pictures.
        negatives: whether the model accepts a negative prompt.
        parallel: number of batches that may be generated at the same time.
        defaults: the default `steps` and `guidance`; empty for a model without a solver.
    """

    name: str
    condition_kind: ConditionKind
    classes: list[str] | None
    styles: Sequence[str]
    shape: tuple[int, ...]
    sizes: list[tuple[int, int]]
    edits: bool
    negatives: bool
    parallel: int
    defaults: Mapping[str, Any]

    def check(self, text: str, field: str) -> None:
        """Checks a prompt.

        Args:
            text: the prompt.
            field: the field of the request, for the error.

        Raises:
            RefusedError: if the model does not accept the prompt.
        """

    def describe(self, drawing: Drawing, seed: int) -> dict[str, str] | None:
        """Returns the metadata of the picture of a seed, or None."""

    def available(self) -> bool:
        """Returns whether the backend can generate now."""

    def warm_up(self, cancelled: Callable[[], bool]) -> None:
        """Prepares the backend so that the first request is fast.

        Args:
            cancelled: a function that returns whether to stop early.
        """

    def draw(self, drawings: Sequence[Drawing], on_step: OnStep | None) -> list[np.ndarray]:
        """Generates the pictures of drawings with equal keys in one batch.

        Args:
            drawings: drawings with equal `key`.
            on_step: None, or a function that is called after each step. A backend need not call it.

        Returns:
            For each drawing its pictures, uint8 `[N, H, W, C]`.
        """
