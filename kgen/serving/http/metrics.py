"""Figures of a server in the format of Prometheus."""

import prometheus_client as prometheus

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Metrics:
    """The figures of one server."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        own = {"registry": self.registry}
        labels = ("path", "method", "status")
        self._requests = prometheus.Counter("kgen_requests", "Requests by status.", labels, **own)
        self._latency = prometheus.Histogram(
            "kgen_request_seconds", "From request to answer.", ("path",), buckets=SECONDS, **own
        )
        self._pictures = prometheus.Counter("kgen_pictures", "Pictures drawn.", **own)
        self._batches = prometheus.Histogram(
            "kgen_batch_pictures", "Pictures in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64), **own
        )
        self._seconds = prometheus.Histogram(
            "kgen_batch_seconds", "Seconds of a batch.", buckets=SECONDS, **own
        )
        self._queue = prometheus.Gauge("kgen_queue_pictures", "Pictures that wait.", **own)
        self._ready = prometheus.Gauge("kgen_ready", "1 after the warm-up.", **own)

    def watch(self, batcher):
        """Reads the state of a `Batcher` whenever the figures are asked for."""
        self._queue.set_function(lambda: batcher.size)
        self._ready.set_function(lambda: float(batcher.ready))

    def answered(self, path, method, status, seconds):
        """Counts a request."""
        self._requests.labels(path, method, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def drawn(self, number, seconds):
        """Counts a batch."""
        self._pictures.inc(number)
        self._batches.observe(number)
        self._seconds.observe(seconds)

    def text(self):
        """Returns the content type and the bytes of all figures."""
        return prometheus.CONTENT_TYPE_LATEST, prometheus.generate_latest(self.registry)
