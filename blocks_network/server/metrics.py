"""What a node counts, in the text format of Prometheus. Every node has a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from blocks_network.server.bus import Kind, Message
from blocks_network.server.outcomes import Outcome

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DURATIONS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
"""Around what a request costs here, and up to what the upload of a large file takes."""
REASONS_MAX = 200
"""Reasons of refusals come from the code, not from requests; should that ever fail, the rest is "other"."""
PRESENCE, PRESENCE_SUFFIX = "presence", "-pnpres"
_NAMES = {kind: kind.name.lower() for kind in Kind}


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
            "Time from a request's head to its answer; polls that were held are left out",
            ("door", "operation"),
            buckets=DURATIONS_S,
            registry=self.registry,
        )
        self._published = dict.fromkeys((*_NAMES.values(), PRESENCE), 0)
        """Counted without a lock: all of it in the loop, and every message of the network."""
        self.registry.register(_Published(self._published))
        # `labels` takes a lock and joins texts; these are looked up with every request
        self._counted: dict[tuple[str, str, int], Counter] = {}
        self._timed: dict[tuple[str, str], Histogram] = {}
        self._reasons: dict[tuple[str, str], Counter] = {}
        ProcessCollector(registry=self.registry)

    def observe(self, outcome: Outcome) -> None:
        """One request that is over."""
        counted = self._counted.get((outcome.door, outcome.operation, outcome.status))
        if counted is None:
            counted = self._requests.labels(outcome.door, outcome.operation, str(outcome.status))
            self._counted[outcome.door, outcome.operation, outcome.status] = counted
        counted.inc()
        if not outcome.held:
            timed = self._timed.get((outcome.door, outcome.operation))
            if timed is None:
                timed = self._durations.labels(outcome.door, outcome.operation)
                self._timed[outcome.door, outcome.operation] = timed
            timed.observe(outcome.seconds)
        if outcome.reason:
            self._refused(outcome.door, outcome.reason)

    def _refused(self, door: str, reason: str) -> None:
        refused = self._reasons.get((door, reason))
        if refused is None:
            if len(self._reasons) >= REASONS_MAX:
                self._refusals.labels(door, "other").inc()
                return
            refused = self._reasons[door, reason] = self._refusals.labels(door, reason)
        refused.inc()

    def published(self, message: Message) -> None:
        """One message that became visible. Follows the bus."""
        draft = message.draft
        self._published[PRESENCE if draft.channel.endswith(PRESENCE_SUFFIX) else _NAMES[draft.kind]] += 1

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A value that is read when somebody asks, as the number of waiting polls."""
        Gauge(f"blocks_{name}", meaning, registry=self.registry).set_function(read)

    def counter(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A number that only grows and that a part counts by itself, read when somebody asks."""
        self.registry.register(_Read(f"blocks_{name}", meaning, read))

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _Published(Collector):
    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts, self._since_s = counts, time.time()

    def collect(self) -> Iterator[CounterMetricFamily]:
        told = CounterMetricFamily(
            "blocks_published_messages", "Messages that became visible, by kind", labels=["kind"]
        )
        for kind, count in self._counts.items():
            told.add_metric([kind], count, created=self._since_s)
        yield told


class _Read(Collector):
    def __init__(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        self._name, self._meaning, self._read = name, meaning, read

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._meaning, value=self._read())
