"""Jobs: the work that a request submits to a backend, and the events that the backend returns."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Hashable
from typing import Any, Literal

import numpy as np


class RefusedError(Exception):
    """A request that cannot be answered, with what the client is sent.

    Args:
        message: one sentence.
        status: HTTP status.
        field: the field of the request that causes the error, or None.
        code: an identifier of the error for programs.
        retry_after: seconds after which the client may try again, or None.
    """

    def __init__(
        self,
        message: str,
        status: int = 422,
        field: str | None = None,
        code: str = "invalid_value",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.field = field
        self.code = code
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """The pictures that one request asks for.

    Args:
        prompt: a text, the name or number of a class, or an empty text.
        seeds: one integer for each picture.
        steps: number of solver steps; None for a model without a solver.
        guidance: guidance scale; None for a model without a solver.
        negative: the negative prompt, or None.
        size: height and width, or None for those of the model.
        image: uint8 `[h, w, C]`, the picture to edit in the size of the model, or None.
        mask: float32 `[h, w, 1]`, 1 where to paint, or None.
        strength: for an edit the start time in (0, 1], else None.
        previews: number of previews to send before the pictures.
    """

    prompt: str
    seeds: tuple[int, ...]
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    size: tuple[int, int] | None = None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    strength: float | None = None
    previews: int = 0

    @property
    def key(self) -> Hashable:
        """The settings that drawings must share to be generated in one batch."""
        edit = (self.image is not None, self.mask is not None, self.strength)
        return (self.steps, self.guidance, self.negative is not None, self.size, *edit)

    def preview_steps(self, num_steps: int) -> set[int]:
        """Returns the steps after which a preview is sent.

        Example:
            >>> sorted(Drawing("", (0,), previews=3).preview_steps(20))
            [5, 10, 15]
        """
        parts = self.previews + 1
        return {round(num_steps * i / parts) for i in range(1, parts)} - {0, num_steps}


class Job:
    """A drawing in the queue or being generated, with a queue of its events.

    It must be created in the event loop in which its events are read.

    Args:
        drawing: the drawing.
    """

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def send(self, kind: Literal["preview", "pictures", "error"], value: Any) -> None:
        """Adds an event, from any thread.

        Args:
            kind: kind of the event.
            value: of `"preview"` the number of finished steps, the number of steps and the
                estimates; of `"pictures"` the pictures; of `"error"` a `RefusedError`.
        """
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, value))

    async def next_event(self) -> tuple[str, Any]:
        """Waits for the next event; returns its kind and value."""
        return await self._events.get()
