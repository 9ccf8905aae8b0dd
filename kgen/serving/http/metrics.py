"""The metrics of the server, for Prometheus."""

from typing import TYPE_CHECKING

import prometheus_client as prometheus

if TYPE_CHECKING:
    from kgen.serving.http.batcher import Batcher

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        own = {"registry": self.registry}
        labels = ("path", "method", "status")
        self._requests = prometheus.Counter("kgen_requests", "Requests by status.", labels, **own)
        self._latency = prometheus.Histogram(
            "kgen_request_seconds",
            "Seconds from request to response.",
            ("path",),
            buckets=SECONDS,
            **own,
        )
        self._pictures = prometheus.Counter("kgen_pictures", "Generated pictures.", **own)
        self._batches = prometheus.Histogram(
            "kgen_batch_pictures", "Pictures per batch.", buckets=(1, 2, 4, 8, 16, 32, 64), **own
        )
        self._seconds = prometheus.Histogram(
            "kgen_batch_seconds", "Seconds per batch.", buckets=SECONDS, **own
        )
        self._queue = prometheus.Gauge("kgen_queue_pictures", "Pictures in the queue.", **own)
        self._ready = prometheus.Gauge("kgen_ready", "1 after the warm-up.", **own)

    def watch(self, batcher: "Batcher") -> None:
        """Reports the state of a batcher, which is read at each request for the metrics."""
        self._queue.set_function(lambda: batcher.size)
        self._ready.set_function(lambda: float(batcher.ready))

    def count_request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            path: path of its route.
            method: HTTP method.
            status: HTTP status of the response.
            seconds: time from request to response.
        """
        self._requests.labels(path, method, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def count_batch(self, number: int, seconds: float) -> None:
        """Counts a batch of a number of pictures that took a number of seconds."""
        self._pictures.inc(number)
        self._batches.observe(number)
        self._seconds.observe(seconds)

    def text(self) -> tuple[str, bytes]:
        """Returns the content type and the text of all metrics."""
        return prometheus.CONTENT_TYPE_LATEST, prometheus.generate_latest(self.registry)
