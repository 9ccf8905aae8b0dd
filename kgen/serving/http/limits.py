"""The bounds of the server on requests, the queue and batches."""

import dataclasses

from kgen.checks import check_count, check_interval


@dataclasses.dataclass(frozen=True)
class ServerLimits:
    """The bounds of a server.

    Args:
        max_count: largest number of pictures per request.
        max_steps: largest number of solver steps.
        max_prompt: largest number of characters of a prompt, negative prompt or style.
        max_pixels: largest number of pixels of an uploaded picture.
        max_bytes: largest size of a request in bytes.
        max_queue: largest number of pictures in the queue; further requests are refused (429).
        max_batch: largest number of pictures in a batch, at least `max_count`.
        max_wait: seconds for which the first request of a batch waits for others.
        timeout: seconds after which a request fails (504).

    Raises:
        TypeError: if an argument is not a number.
        ValueError: if an argument is out of range.
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

    def __post_init__(self) -> None:
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
