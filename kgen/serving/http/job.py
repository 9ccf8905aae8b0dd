"""What one request asks of a backend, and what comes back to it."""

import asyncio
import contextlib
import dataclasses

import numpy as np


class RefusedError(Exception):
    """A request that cannot be answered: what the client is told.

    Args:
        message: one sentence.
        status: HTTP status.
        field: the field of the request that is at fault, or None.
        code: a word for programs.
        retry_after: None, or seconds after which to try again.
    """

    def __init__(self, message, status=422, field=None, code="invalid_value", retry_after=None):
        super().__init__(message)
        self.status = status
        self.field = field
        self.code = code
        self.retry_after = retry_after


@dataclasses.dataclass(frozen=True, eq=False)
class Drawing:
    """Pictures of one prompt.

    Args:
        prompt: a text, the name or number of a class, or an empty text.
        seeds: one integer for each picture.
        steps: solver steps.
        guidance: scale of the guidance.
        negative: None, or what to move away from.
        size: None, or height and width.
        image: None, or uint8 `[h, w, C]` to begin from.
        mask: None, or float32 `[h, w, 1]`, 1 where to paint.
        strength: with `image`, the time in (0, 1] to begin from.
        previews: how many pictures of the way there are wanted.
    """

    prompt: str
    seeds: tuple
    steps: int | None = None
    guidance: float | None = None
    negative: str | None = None
    size: tuple | None = None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    strength: float | None = None
    previews: int = 0

    @property
    def key(self):
        """What pictures that are drawn in one batch have in common."""
        begin = (self.image is not None, self.mask is not None, self.strength)
        return (self.steps, self.guidance, self.negative is not None, self.size, *begin)

    def preview_steps(self, num_steps):
        """The steps after which a preview is due.

        Example:
            >>> sorted(Drawing("", (0,), previews=3).preview_steps(20))
            [5, 10, 15]
        """
        parts = self.previews + 1
        return {round(num_steps * i / parts) for i in range(1, parts)} - {0, num_steps}


class Job:
    """A drawing that waits or is being drawn; events come from the thread that draws.

    Made where an event loop runs, which is where its events are read.

    Args:
        drawing: a `Drawing`.
    """

    def __init__(self, drawing):
        self.drawing = drawing
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._events = asyncio.Queue()

    def tell(self, kind, value):
        """Sends an event: `"preview"`, `"pictures"` or `"error"`. From any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, value))

    async def next_event(self):
        """Waits for the next event; returns its kind and value."""
        return await self._events.get()
