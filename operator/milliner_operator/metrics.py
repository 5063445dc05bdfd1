"""Prometheus metrics of the operator; names and meanings are in docs/operations.md."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from typing import Any

import prometheus_client

_DURATIONS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_READY_S = (5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0)


class Metrics:
    """The operator's instruments, in a registry of their own or in the process-wide one."""

    def __init__(self, registry: prometheus_client.CollectorRegistry | None = None) -> None:
        chosen = prometheus_client.REGISTRY if registry is None else registry
        self.passes = prometheus_client.Counter(
            "milliner_operator_reconciles", "Reconcile passes, by result.", ["result"], registry=chosen
        )
        self.duration = prometheus_client.Histogram(
            "milliner_operator_reconcile_seconds", "Duration of a pass.", buckets=_DURATIONS_S, registry=chosen
        )
        self.writes = prometheus_client.Counter(
            "milliner_operator_writes", "Objects applied or deleted, statuses written.", registry=chosen
        )
        self._requests = prometheus_client.Counter(
            "milliner_operator_api_requests", "Calls of API servers, by verb.", ["verb"], registry=chosen
        )
        self._received = prometheus_client.Counter(
            "milliner_operator_api_received_bytes", "Bytes of their answers, without headers.", registry=chosen
        )
        self.ready = prometheus_client.Gauge(
            "milliner_operator_topology_ready",
            "1: Ready is True, 0: False, -1: Unknown.",
            ["namespace", "topology"],
            registry=chosen,
        )
        self.time_to_ready = prometheus_client.Histogram(
            "milliner_operator_time_to_ready_seconds",
            "From a generation that was first seen by this process to Ready=True for it.",
            buckets=_READY_S,
            registry=chosen,
        )
        self.waiting = prometheus_client.Gauge(
            "milliner_operator_queue_length", "Topologies that are due or being reconciled.", registry=chosen
        )
        self._since: dict[str, tuple[int, float | None]] = {}  # uid -> generation, when first seen; None: was ready

    def serve(self, port: int) -> None:
        """Serves the process-wide registry on a thread, on all addresses of either family."""
        try:
            prometheus_client.start_http_server(port, addr="::")
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise
            prometheus_client.start_http_server(port)  # a node without IPv6

    def answered(self, verb: str, num_bytes: int) -> None:
        """A call of an API server ended; safe on any thread."""
        self._requests.labels(verb).inc()
        self._received.inc(num_bytes)

    def seen(self, document: Mapping[str, Any]) -> None:
        """Starts the clock of a generation, unless it was ready before this process saw it."""
        uid, generation = document["metadata"]["uid"], document["metadata"]["generation"]
        if self._since.get(uid, (0, None))[0] == generation:
            return
        status = document.get("status") or {}
        ready = [each for each in status.get("conditions") or () if each["type"] == "Ready"]
        was = status.get("observedGeneration") == generation and any(each["status"] == "True" for each in ready)
        self._since[uid] = (generation, None if was else time.monotonic())

    def settled(self, uid: str, generation: int, *, ready: bool) -> None:
        """Stops the clock of a generation that is ready."""
        known, since = self._since.get(uid, (0, None))
        if ready and known == generation and since is not None:
            self.time_to_ready.observe(time.monotonic() - since)
            self._since[uid] = (generation, None)

    def forget(self, namespace: str, topology: str) -> None:
        """The topology is gone: no gauge is left of it."""
        try:
            self.ready.remove(namespace, topology)
        except KeyError:
            return  # it never had one
