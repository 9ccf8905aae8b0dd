"""What a client of the server may ask for, and how long it may take."""

import dataclasses

from kgen.checks import check_count, check_interval


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """The bounds of a server.

    Args:
        max_count: pictures in one request.
        max_steps: solver steps.
        max_prompt: characters of a prompt, and of what to move away from.
        max_pixels: pixels of a picture that is given.
        max_bytes: bytes of a request.
        max_queue: pictures that may wait; a request that finds no place is refused (429).
        max_batch: pictures that are drawn at once, at least `max_count`.
        max_wait: seconds for which the first request of a batch waits for others.
        timeout: seconds until a request is given up (504).

    Raises:
        TypeError: if one is no number.
        ValueError: if one is out of range.
    """

    max_count: int = 8
    max_steps: int = 100
    max_prompt: int = 1000
    max_pixels: int = 16_000_000
    max_bytes: int = 32_000_000
    max_queue: int = 64
    max_batch: int = 16
    max_wait: float = 0.01
    timeout: float = 120.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type is int:
                check_count(field.name, getattr(self, field.name))
        check_interval("max_wait", self.max_wait, "[0, 10]")
        check_interval("timeout", self.timeout, "(0, 86400]")
        if self.max_count > min(self.max_batch, self.max_queue):
            raise ValueError(
                "`max_count` must be at most `max_batch` and `max_queue`. Received: "
                f"max_count={self.max_count}, max_batch={self.max_batch}, "
                f"max_queue={self.max_queue}."
            )
