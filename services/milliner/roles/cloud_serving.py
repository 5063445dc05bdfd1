"""What every cloud role does once its engine stands: listen, tell whether it is ready, serve until SIGTERM, drain.

Whatever the engine computes (slices, whole models), a replica is ready while its accelerator answers, its certificate
is good and what lies behind it can be used; one whose accelerator hangs says so by all means, liveness too.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from milliner.contract import role_config, role_events
from milliner.core import generation, ports
from milliner.engine import engine as engines
from milliner.roles import certificate_watch, counters, engine_watch, runtime, shutdown
from milliner.telemetry import cloud_metrics
from milliner.wire import server, server_stream, tls

# A stream outlives what the engine keeps of an idle session by as much again: it only has to end some day. Arbitrary.
_STREAM_IDLE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Serving:
    """What a cloud role serves; `what` is how its log calls it.

    `keep_behind` watches what the replica depends on, and calls what it is given when `why_not_behind` changes.
    """

    what: str
    model_digest: str
    engine: engines.Engine
    metrics: cloud_metrics.CloudMetrics
    hidden_states: ports.CloudService | None = None
    tokens: generation.TokenService | None = None
    why_not_behind: Callable[[], str] = lambda: ""
    keep_behind: Callable[[Callable[[], Awaitable[None]]], Coroutine[Any, Any, None]] | None = None


async def serve(
    serving: Serving,
    config: role_config.RoleConfig,
    *,
    engine_limits: role_config.EngineLimits,
    identity: tls.Identity | None,
    running: runtime.Runtime,
) -> None:
    """Serves until SIGTERM, then drains; until here SIGTERM simply ends the process. Raises `ConfigError` where the
    port is taken."""
    stopping, report = shutdown.stop_event(), running.report
    engine = serving.engine
    await engine.warm_up()
    compute_counters = counters.ComputeCounters(running.worker)
    shutdown.on_stats_request(lambda: report.say(role_events.RoleEventKind.STATS, data=compute_counters.read()))
    listening = await server.serve(
        serving.hidden_states,
        tokens=serving.tokens,
        host=config.listen.host,
        port=config.listen.port,
        credentials=identity.server_credentials() if identity is not None else None,
        limits=server_stream.StreamLimits(idle_s=_STREAM_IDLE * engine_limits.session_idle_s),
        serving=serving.keep_behind is None,
    )
    running.stack.push_async_callback(listening.stop)

    def why_not_ready() -> str:
        if stopping.is_set():
            return "the replica is stopping"
        trouble = identity.trouble() if identity is not None else ""
        return engine.hung or trouble or serving.why_not_behind()

    def say_ready() -> None:
        report.say(
            role_events.RoleEventKind.READY,
            host=config.listen.host,
            port=listening.port,
            message=f"{serving.what} on port {listening.port}",
            data={"model_digest": serving.model_digest},
        )

    async def on_change() -> None:
        reason = why_not_ready()
        await listening.set_serving(not reason)
        if reason:
            report.say(role_events.RoleEventKind.WAITING, message=reason)
        else:
            say_ready()

    async def on_certificate_change(_: str) -> None:
        await listening.set_serving(not why_not_ready())

    told = running.told
    told.loading, told.why_not_ready, told.why_dead = "", why_not_ready, lambda: engine.hung
    told.render_metrics = lambda accept: serving.metrics.render(accept, engine.load(), engine.swapped())
    watches: list[Coroutine[Any, Any, None]] = [
        engine_watch.keep(lambda: engine.hung, clock=running.clock, on_change=on_change)
    ]
    if identity is not None:
        watches.append(certificate_watch.keep(identity, clock=running.clock, on_change=on_certificate_change))
    if serving.keep_behind is not None:
        watches.append(serving.keep_behind(on_change))
    async with asyncio.TaskGroup() as group:
        group.create_task(engine.run())
        report.say(role_events.RoleEventKind.SERVING, host=config.listen.host, port=listening.port)
        if serving.keep_behind is None:
            say_ready()
        watching = [group.create_task(watch) for watch in watches]
        await stopping.wait()
        for watch in watching:
            watch.cancel()
        await listening.stop(config.drain_seconds)  # the engine outlives it: open sessions are answered meanwhile
        await engine.stop()
