"""A role's tracer, which sends to the receiver that its configuration names and is flushed at the role's end."""

from __future__ import annotations

import asyncio
import contextlib

from opentelemetry import trace

from milliner.contract import role_config
from milliner.telemetry import tracing


def tracer(config: role_config.RoleConfig, *, tier: str, stack: contextlib.AsyncExitStack) -> trace.Tracer:
    """Traces the requests that are sampled and sends them to the receiver, if there is one; ended with `stack`.

    Nothing stays in memory: nobody could read it there. Without a receiver every request has a trace id all the same.
    """
    export = config.tracing
    traces = tracing.set_up(
        tier=tier,
        topology=config.topology,
        instance=config.name,
        sampling_percent=100 if export is None else export.sampling_percent,
        otlp_endpoint="" if export is None else export.otlp_endpoint,
        recent_spans=0,
    )
    stack.push_async_callback(asyncio.to_thread, traces.shutdown)
    return traces.tracer
