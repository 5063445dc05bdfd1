"""The device role: a strategy over the device's submodels and the wire, behind the HTTP API. Wiring only.

Life: load submodels and tokenizer, listen (health answers from now on), send a first short request through both
tiers until one succeeds, report ready, serve; when the cloud is lost report that, and ready again when it is back
(`readiness`); at SIGTERM finish what runs within `drain_seconds`, end.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import zlib
from typing import TYPE_CHECKING

from milliner.api import app, health, keys, text_service, tokenizer
from milliner.contract import model_checks, role_config, role_events
from milliner.core import clock, errors
from milliner.engine import executor
from milliner.roles import (
    counters,
    device_options,
    exporting,
    http_server,
    links,
    probe,
    proof,
    readiness,
    reporter,
    shutdown,
    stopping,
    watched,
)
from milliner.strategies import base, factory
from milliner.telemetry import metrics, summary
from milliner.wire import client, codecs, replicas, tls

if TYPE_CHECKING:
    from milliner.engine.device import device_model, submodels


async def run(config: role_config.DeviceRoleConfig, *, report: reporter.Reporter) -> None:
    """Serves until SIGTERM. Raises `ConfigError` and its like for what is wrong with configuration or files, and
    `UnavailableError` when an emulated link cannot be kept up."""
    worker = executor.ComputeExecutor(name=f"compute {config.name}", torch_threads=config.torch_threads)
    told = health.Health()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(worker.close)
        options = device_options.strategy_options(config)
        api_keys = keys.KeyFolder(pathlib.Path(config.api_keys_dir)) if config.api_keys_dir is not None else None
        identity = tls.Identity(config.tls) if config.tls is not None else None
        await http_server.serve_health(told, config.health_port, stack)
        report.say(role_events.RoleEventKind.LOADING, message=f"loading layers [0, {config.split.split_layer})")
        (device, codec), _ = await worker.run(lambda: _load(config, worker))
        asked_to_stop = shutdown.stop_event()  # until here SIGTERM simply ends the process: there is nothing to drain
        time = clock.LoopClock()
        transport = client.GrpcTransport(config.cloud_endpoints, identity=identity, route=await _route(config, stack))
        stack.push_async_callback(transport.close)
        strategy = factory.build_generator(options, clock=time, transport=transport, device=device)
        proven = proof.Proof(clock=time)
        prober = probe.Probe(strategy, device=device.info, clock=time, on_success=proven.probed)
        ready = readiness.Readiness(prober, cloud=transport, clock=time, proof_age_s=lambda: proven.age_s)
        transport.on_trouble = ready.suspect
        watched_strategy = watched.WatchedGenerator(
            strategy, on_cloud_lost=ready.answer_failed, on_emission=proven.emitted
        )
        generator = stopping.StoppableGenerator(watched_strategy, clock=time)
        service = _text_service(config, stack, generator=generator, codec=codec, device=device, transport=transport)
        told.probe = lambda: proven.document(
            reason=ready.reason, revision=config.revision or "", model_digest=device.info.model_digest
        )
        application = app.create_app(
            service,
            clock=time,
            device_metrics=_metrics(service, proven),
            limits=app.Limits(max_running=config.max_concurrent_requests),
            why_not_ready=lambda: ready.reason,
            why_refused=lambda: ready.refusal,
            kv_used_share=lambda: device.used_share,
            told_health=told,
            api_keys=api_keys,
        )
        compute_counters = counters.ComputeCounters(worker)
        listening = http_server.bind(config.listen.host, config.listen.port)
        port: int = listening.getsockname()[1]

        def on_ready() -> None:
            shutdown.on_stats_request(lambda: report.say(role_events.RoleEventKind.STATS, data=compute_counters.read()))
            report.say(
                role_events.RoleEventKind.READY,
                host=config.listen.host,
                port=port,
                message=f"{config.strategy.type.value} on http://{config.listen.host}:{port}",
                data={"model_digest": device.info.model_digest, "round_trip_s": prober.round_trip_s},
            )

        server = http_server.Server(application)
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listening]))
            report.say(role_events.RoleEventKind.SERVING, host=config.listen.host, port=port)
            report.waiting(ready.reason)
            keeping = group.create_task(ready.keep(on_ready=on_ready, on_waiting=report.waiting))
            await asked_to_stop.wait()
            ready.stop()
            keeping.cancel()
            await generator.drain(config.drain_seconds)
            server.should_exit = True
            await serving
    report.say(role_events.RoleEventKind.STOPPED)


def _text_service(
    config: role_config.DeviceRoleConfig,
    stack: contextlib.AsyncExitStack,
    *,
    generator: base.Generator,
    codec: tokenizer.HuggingFaceTokenizer,
    device: device_model.DeviceModel,
    transport: client.GrpcTransport,
) -> text_service.TextService:
    """Text over the generator, traced; ended with `stack`."""
    service = text_service.TextService(
        generator=generator,
        codec=codec,
        model=text_service.ServedModel(
            name=config.model.served_name,
            max_positions=device.info.max_positions,
            strategy=config.strategy.type.value,
            topology=config.topology,
        ),
        clock=clock.LoopClock(),
        tracer=exporting.tracer(config, tier="device", stack=stack),
        cloud_positions=lambda: transport.max_positions,
    )
    stack.callback(service.close)
    return service


def _metrics(service: text_service.TextService, proven: proof.Proof) -> metrics.DeviceMetrics:
    """The device's metrics; every finished request counts there and may be a proof."""
    found = metrics.DeviceMetrics(model=service.model.name, strategy=service.model.strategy)

    def finished(one: summary.RequestSummary) -> None:
        found.observe(one)
        proven.ended(one)

    service.on_finished = finished
    return found


async def _route(config: role_config.DeviceRoleConfig, stack: contextlib.AsyncExitStack) -> replicas.Route | None:
    """Emulated links in front of the cloud's replicas, ended with `stack`; None where the link is a real one."""
    # Each device has jitter of its own, the same at every start.
    conditions = device_options.link_conditions(config, seed=zlib.crc32(config.name.encode()))
    return None if conditions is None else await stack.enter_async_context(links.EmulatedLinks(conditions))


def _load(
    config: role_config.DeviceRoleConfig, worker: executor.ComputeExecutor
) -> tuple[device_model.DeviceModel, tokenizer.HuggingFaceTokenizer]:
    """Submodels and tokenizer. On the executor's thread; reads only the device's tensors."""
    from milliner.engine.device import device_model
    from milliner.roles import accelerators

    files = device_model.DeviceFiles(
        model=pathlib.Path(config.model.path),
        split_layer=config.split.split_layer,
        tail_layers=config.split.tail_layers,
        adapter=_path(config.strategy.adapter_path),
        medusa=_path(config.strategy.heads_path),
    )
    modules = device_model.load_submodels(
        files,
        dtype=accelerators.dtype(config.model.dtype),
        torch_device=accelerators.torch_device(config.accelerator),
    )
    for problem in model_checks.check_digest(pinned=config.model.digest, found=modules.info.model_digest):
        raise errors.ConfigError(problem.message, field=problem.path)
    device = device_model.DeviceModel(
        modules,
        codecs=_codecs(),
        executor=worker,
        costs=device_options.device_costs(config),
        max_sessions=config.max_concurrent_requests,
    )
    return device, tokenizer.HuggingFaceTokenizer.load(files.model)


def _codecs() -> submodels.Codecs:
    from milliner.engine.device import submodels

    return submodels.Codecs(encode=codecs.encode, decode=codecs.decode, bytes_per_position=codecs.bytes_per_position)


def _path(text: str | None) -> pathlib.Path | None:
    return None if text is None else pathlib.Path(text)
