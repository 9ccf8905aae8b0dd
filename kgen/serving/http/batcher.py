"""A bounded queue of jobs, and the threads that generate compatible jobs in one batch.

The first job of the queue is always in the next batch, so that no job waits forever. Later jobs
join it, in their order, if they have an equal `Drawing.key` and the batch has room. Each picture
depends on its own seed only, so it is the same in every batch, up to rounding.
"""

import collections
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from kgen.serving.http.backend import Backend
from kgen.serving.http.job import Job, RefusedError
from kgen.serving.http.limits import ServerLimits
from kgen.serving.http.metrics import Metrics

LOG = logging.getLogger("kgen.serving")


class _AbandonedError(Exception):
    """All jobs of the batch that is being generated are cancelled."""


class Batcher:
    """Generates the pictures of jobs in its own threads.

    Args:
        backend: the backend.
        limits: the bounds of the server.
        metrics: the metrics of the server.

    Attributes:
        ready: whether the backend has warmed up.
        failed: the error of the warm-up, or None.
    """

    def __init__(self, backend: Backend, limits: ServerLimits, metrics: Metrics) -> None:
        self.backend = backend
        self.limits = limits
        self.metrics = metrics
        self.ready = False
        self.failed: Exception | None = None
        self._queue: collections.deque[Job] = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_picture = 0.0  # a moving average
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads; the first one warms the backend up."""
        self._threads = [threading.Thread(target=self._run, daemon=True, name="kgen-draw")]
        self._threads[0].start()

    def close(self) -> None:
        """Ends the threads after their current batch, and refuses the jobs in the queue."""
        with self._changed:
            self._closed = True
            for job in self._queue:
                job.send("error", _shutdown_error())
            self._queue.clear()
            self._changed.notify_all()
        for thread in list(self._threads):
            thread.join()

    @property
    def size(self) -> int:
        """The number of pictures in the queue."""
        return sum(len(job.drawing.seeds) for job in self._queue if not job.cancelled)

    def submit(self, job: Job) -> None:
        """Adds a job to the queue.

        Raises:
            RefusedError: if the queue is full (429), or the server shuts down (503).
        """
        with self._changed:
            if self._closed:
                raise _shutdown_error(retry_after=1)
            size = self.size
            if size + len(job.drawing.seeds) > self.limits.max_queue:
                retry_after = min(60, max(1, math.ceil(size * self._seconds_per_picture)))
                raise RefusedError(
                    f"The queue is full, with {size} pictures. Try again later.",
                    429,
                    code="queue_full",
                    retry_after=retry_after,
                )
            self._queue.append(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Cancels a job. A batch whose jobs are all cancelled ends after its current step."""
        job.cancelled = True
        with self._changed:
            if job in self._queue:
                self._queue.remove(job)

    def _run(self) -> None:
        """Warms the backend up, starts the other threads, and then generates."""
        try:
            self.backend.warm_up(lambda: self._closed)
        except Exception as error:
            LOG.exception("The warm-up failed")
            self.failed = error
            return
        self.ready = True
        for _ in range(self.backend.parallel - 1):
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()
        self._work()

    def _work(self) -> None:
        while jobs := self._next_batch():
            self._draw(jobs)

    def _next_batch(self) -> list[Job]:
        """Waits for jobs; returns those of one batch, or an empty list after `close`."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return []
                self._changed.wait()
            key, until = self._queue[0].drawing.key, time.monotonic() + self.limits.max_wait
            while self._queue and not self._closed:
                jobs = self._compatible_jobs(key)
                left = until - time.monotonic()
                if sum(len(j.drawing.seeds) for j in jobs) >= self.limits.max_batch or left <= 0:
                    break
                self._changed.wait(left)
            jobs = self._compatible_jobs(self._queue[0].drawing.key) if self._queue else []
            for job in jobs:
                self._queue.remove(job)
        return jobs or self._next_batch()

    def _compatible_jobs(self, key: Hashable) -> list[Job]:
        """Returns the jobs of the queue that have a key and fit into one batch, in their order."""
        jobs, room = [], self.limits.max_batch
        for job in self._queue:
            if job.drawing.key == key and len(job.drawing.seeds) <= room:
                jobs.append(job)
                room -= len(job.drawing.seeds)
        return jobs

    def _draw(self, jobs: Sequence[Job]) -> None:
        """Generates a batch and sends the pictures to its jobs, or an error to each that fails."""
        number = sum(len(job.drawing.seeds) for job in jobs)
        start = time.monotonic()
        try:
            drawn = self.backend.draw(
                [job.drawing for job in jobs], lambda *step: _send_previews(jobs, *step)
            )
        except _AbandonedError:
            return
        except Exception as error:
            if len(jobs) > 1:  # separately, so that one failure does not affect the others
                for job in jobs:
                    self._draw([job])
                return
            if not isinstance(error, RefusedError):
                LOG.exception("Drawing failed")
                error = RefusedError("The pictures could not be generated.", 500, code="failed")
            jobs[0].send("error", error)
            return
        seconds = time.monotonic() - start
        self._seconds_per_picture = 0.8 * self._seconds_per_picture + 0.2 * seconds / number
        self.metrics.count_batch(number, seconds)
        for job, pictures in zip(jobs, drawn, strict=True):
            job.send("pictures", pictures)


def _shutdown_error(retry_after: int | None = None) -> RefusedError:
    return RefusedError(
        "The server is shutting down.", 503, code="server_ends", retry_after=retry_after
    )


def _send_previews(
    jobs: Sequence[Job], step: int, num_steps: int, preview: Callable[[], np.ndarray]
) -> None:
    """Sends the estimates after a step to the jobs that have a preview at this step.

    Args:
        jobs: the jobs of the batch.
        step: number of finished steps.
        num_steps: number of steps.
        preview: a function that returns the estimates, uint8 `[N, H, W, C]`.

    Raises:
        _AbandonedError: if all jobs are cancelled.
    """
    if all(job.cancelled for job in jobs):
        raise _AbandonedError
    due = [job for job in jobs if step in job.drawing.preview_steps(num_steps)]
    if not due:
        return
    pictures, start = preview(), 0
    for job in jobs:
        stop = start + len(job.drawing.seeds)
        if job in due:
            job.send("preview", (step, num_steps, pictures[start:stop]))
        start = stop
