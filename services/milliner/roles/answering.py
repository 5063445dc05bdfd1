"""What every device role does once its strategy stands: the HTTP API over it, readiness, proofs, drain.

Life: listen (health answers from now on), send a first short request until one succeeds, report ready, serve; when what
answers need is lost report that, and ready again when it is back (`readiness`); at SIGTERM finish what runs within
`drain_seconds`, end.
"""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
from collections.abc import Callable

from milliner.api import app, keys, text_service, tokenizer
from milliner.contract import addresses, role_config, role_events
from milliner.roles import (
    counters,
    exporting,
    http_server,
    proof,
    proving,
    readiness,
    runtime,
    shutdown,
    stopping,
    watched,
)
from milliner.strategies import base
from milliner.telemetry import metrics, summary


@dataclasses.dataclass(frozen=True, slots=True)
class Answering:
    """What a device answers with. `cloud` knows whether the replicas that answers need can be reached; `on_trouble`
    registers who wants to hear of trouble with them; `cloud_positions` is the most that a session may have there.
    `behind` is the cloud of a device that answers alone while it is away; `alone`: there is none at all. `refines`: the
    strategy may leave out parts of a prompt."""

    generator: base.Generator
    codec: tokenizer.HuggingFaceTokenizer
    model_digest: str
    vocab_size: int
    max_positions: int
    kv_used_share: Callable[[], float]
    cloud: readiness.Cloud
    behind: proving.Behind | None = None
    cloud_positions: Callable[[], int] = lambda: 0
    on_trouble: Callable[[Callable[[], None]], None] = lambda _: None
    alone: bool = False
    refines: bool = False


async def serve(answering: Answering, config: role_config.AnsweringRoleConfig, *, running: runtime.Runtime) -> None:
    """Serves until SIGTERM, then drains; until here SIGTERM simply ends the process. Raises `ConfigError` where the
    port is taken."""
    asked_to_stop, clock, report = shutdown.stop_event(), running.clock, running.report
    state = proving.Proving(
        answering.generator,
        cloud=answering.cloud,
        behind=answering.behind,
        alone=answering.alone,
        vocab_size=answering.vocab_size,
        clock=clock,
    )
    ready = state.ready
    answering.on_trouble(state.suspect)
    watched_strategy = watched.WatchedGenerator(
        answering.generator, on_cloud_lost=state.answer_failed, on_emission=state.emitted
    )
    generator = stopping.StoppableGenerator(watched_strategy, clock=clock)
    service = _text_service(answering, config, generator=generator, running=running)
    running.told.probe = lambda: state.document(revision=config.revision or "", model_digest=answering.model_digest)
    application = app.create_app(
        service,
        clock=clock,
        device_metrics=_metrics(service, state.proof),
        limits=app.Limits(max_running=config.max_concurrent_requests),
        why_not_ready=lambda: ready.reason,
        why_refused=lambda: ready.refusal,
        kv_used_share=answering.kv_used_share,
        told_health=running.told,
        api_keys=keys.KeyFolder(pathlib.Path(config.api_keys_dir)) if config.api_keys_dir is not None else None,
    )
    compute_counters = counters.ComputeCounters(running.worker)
    listening = http_server.bind(config.listen.host, config.listen.port)
    port: int = listening.getsockname()[1]

    def on_ready() -> None:
        shutdown.on_stats_request(lambda: report.say(role_events.RoleEventKind.STATS, data=compute_counters.read()))
        report.say(
            role_events.RoleEventKind.READY,
            host=config.listen.host,
            port=port,
            message=f"{config.strategy_type.value} on http://{addresses.join(config.listen.host, port)}",
            data={"model_digest": answering.model_digest, "round_trip_s": state.round_trip_s},
        )

    server = http_server.Server(application)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listening]))
        report.say(role_events.RoleEventKind.SERVING, host=config.listen.host, port=port)
        report.waiting(ready.reason)
        keeping = group.create_task(state.keep(on_ready=on_ready, on_waiting=report.waiting))
        await asked_to_stop.wait()
        ready.stop()
        keeping.cancel()
        await generator.drain(config.drain_seconds)
        server.should_exit = True
        await serving


def _text_service(
    answering: Answering,
    config: role_config.AnsweringRoleConfig,
    *,
    generator: base.Generator,
    running: runtime.Runtime,
) -> text_service.TextService:
    """Text over the generator, traced; ended with the role."""
    service = text_service.TextService(
        generator=generator,
        codec=answering.codec,
        model=text_service.ServedModel(
            name=config.model.served_name,
            max_positions=answering.max_positions,
            strategy=config.strategy_type.value,
            topology=config.topology,
        ),
        clock=running.clock,
        tracer=exporting.tracer(config, tier="device", stack=running.stack),
        cloud_positions=answering.cloud_positions,
        refines=answering.refines,
    )
    running.stack.callback(service.close)
    return service


def _metrics(service: text_service.TextService, proven: proof.Proof) -> metrics.DeviceMetrics:
    """The device's metrics; every finished request counts there and may be a proof."""
    found = metrics.DeviceMetrics(model=service.model.name, strategy=service.model.strategy)

    def finished(one: summary.RequestSummary) -> None:
        found.observe(one)
        proven.ended(one)

    service.on_finished = finished
    return found
