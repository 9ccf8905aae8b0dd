"""A bounded queue of jobs, of which those that fit together are drawn in one batch.

The first of the queue is always in the next batch, so that none waits for ever; jobs behind it that
have the same steps, guidance and so on go with it, in their order, while the batch has room. A
picture depends on its own seed alone, so it is the same in every batch, up to rounding.
"""

import collections
import logging
import math
import threading
import time

from kgen.serving.http.job import RefusedError

LOG = logging.getLogger("kgen.serving")


class _AbandonedError(Exception):
    """Nobody waits for the pictures that are being drawn."""


class Batcher:
    """Draws jobs in threads of its own.

    Args:
        backend: has `draw`, `warm_up` and `parallel`, the number of batches at the same time.
        limits: a `ServerLimits`.
        metrics: a `Metrics`.
    """

    def __init__(self, backend, limits, metrics):
        self.backend = backend
        self.limits = limits
        self.metrics = metrics
        self.ready = False
        self.failed = None
        self._waiting = collections.deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0  # that a picture takes, lately
        self._threads = []

    def start(self):
        """Starts the threads, of which the first warms the backend up."""
        self._threads = [threading.Thread(target=self._run, daemon=True, name="kgen-draw")]
        self._threads[0].start()

    def close(self):
        """Ends the threads, once what they draw is drawn; what waits is refused."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.tell("error", RefusedError("The server ends.", 503, code="server_ends"))
            self._waiting.clear()
            self._changed.notify_all()
        for thread in list(self._threads):
            thread.join()

    @property
    def size(self):
        """How many pictures wait."""
        return sum(len(job.drawing.seeds) for job in self._waiting if not job.cancelled)

    def submit(self, job):
        """Puts a job into the queue.

        Raises:
            RefusedError: if the queue is full (429), or the server ends (503).
        """
        with self._changed:
            if self._closed:
                raise RefusedError("The server ends.", 503, code="server_ends", retry_after=1)
            size = self.size
            if size + len(job.drawing.seeds) > self.limits.max_queue:
                after = min(60, max(1, math.ceil(size * self._seconds)))
                raise RefusedError(
                    f"{size} pictures wait already. Try again later.",
                    429,
                    code="queue_full",
                    retry_after=after,
                )
            self._waiting.append(job)
            self._changed.notify_all()

    def cancel(self, job):
        """Gives a job up; what is being drawn for it alone ends at its next step."""
        job.cancelled = True
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def _run(self):
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

    def _work(self):
        while jobs := self._next():
            self._draw(jobs)

    def _next(self):
        """Waits for jobs; returns those of one batch, or an empty list at the end."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            key, until = self._waiting[0].drawing.key, time.monotonic() + self.limits.max_wait
            while self._waiting and not self._closed:
                jobs = self._fitting(key)
                left = until - time.monotonic()
                if sum(len(j.drawing.seeds) for j in jobs) >= self.limits.max_batch or left <= 0:
                    break
                self._changed.wait(left)
            jobs = self._fitting(self._waiting[0].drawing.key) if self._waiting else []
            for job in jobs:
                self._waiting.remove(job)
        return jobs or self._next()

    def _fitting(self, key):
        """The jobs of a batch with the first of the queue, in their order."""
        jobs, room = [], self.limits.max_batch
        for job in self._waiting:
            if job.drawing.key == key and len(job.drawing.seeds) <= room:
                jobs.append(job)
                room -= len(job.drawing.seeds)
        return jobs

    def _draw(self, jobs):
        number = sum(len(job.drawing.seeds) for job in jobs)
        began = time.monotonic()
        try:
            drawn = self.backend.draw([j.drawing for j in jobs], lambda *step: _show(jobs, *step))
        except _AbandonedError:
            return
        except Exception as error:
            if len(jobs) > 1:  # one that fails shall not take others with it
                for job in jobs:
                    self._draw([job])
                return
            if not isinstance(error, RefusedError):
                LOG.exception("Drawing failed")
                error = RefusedError("The pictures could not be drawn.", 500, code="failed")
            jobs[0].tell("error", error)
            return
        seconds = time.monotonic() - began
        self._seconds = 0.8 * self._seconds + 0.2 * seconds / number
        self.metrics.drawn(number, seconds)
        for job, pictures in zip(jobs, drawn, strict=True):
            job.tell("pictures", pictures)


def _show(jobs, step, num_steps, preview):
    """Sends previews to the jobs that want one now; ends the drawing if nobody waits for it."""
    if all(job.cancelled for job in jobs):
        raise _AbandonedError
    due = [job for job in jobs if step in job.drawing.preview_steps(num_steps)]
    if not due:
        return
    pictures, start = preview(), 0
    for job in jobs:
        stop = start + len(job.drawing.seeds)
        if job in due:
            job.tell("preview", (step, num_steps, pictures[start:stop]))
        start = stop
