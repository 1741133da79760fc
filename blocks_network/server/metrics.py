"""What a node counts, in the text format of Prometheus. Every node has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DURATIONS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Around what a request costs here; a waiting poll is not a duration but a gauge."""


class Metrics:
    """Labels come from fixed sets alone (operations, statuses, reasons): no name from outside becomes a series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "blocks_requests", "Requests answered", ("door", "operation", "status"), registry=self.registry
        )
        self._refusals = Counter("blocks_refusals", "Requests refused", ("door", "reason"), registry=self.registry)
        self._durations = Histogram(
            "blocks_request_seconds",
            "Time from a request's head to its answer",
            ("door", "operation"),
            buckets=DURATIONS_S,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def observe(
        self, door: str, operation: str, status: int, seconds: float | None = None, *, reason: str | None = None
    ) -> None:
        """One request answered. `seconds` None for one that waited by its nature; `reason` for a refusal."""
        self._requests.labels(door, operation, str(status)).inc()
        if seconds is not None:
            self._durations.labels(door, operation).observe(seconds)
        if reason is not None:
            self._refusals.labels(door, reason).inc()

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A value that is read when somebody asks, as the number of waiting polls."""
        Gauge(f"blocks_{name}", meaning, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        return generate_latest(self.registry)
