"""The cloud role: layers [start, end) of a checkpoint behind a gRPC port. Wiring only.

Life: open the folder, check digest and bounds, load the slice, listen, warm up, report ready, serve; at SIGTERM refuse
new sessions, give open ones `_DRAIN_S`, end. SIGUSR1 writes the counters that benches read.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from typing import TYPE_CHECKING

from milliner.contract import model_checks, role_config, role_events
from milliner.core import clock, compute, errors
from milliner.engine import engine as engines
from milliner.engine import executor, limits
from milliner.roles import counters, hidden_state_service, reporter, shutdown
from milliner.telemetry import cloud_span, tracing
from milliner.wire import server

if TYPE_CHECKING:
    from milliner.engine import slice_backend

_DRAIN_S = 2.0  # arbitrary: a device replays elsewhere what is cut, so that waiting long gains nothing


async def run(config: role_config.CloudRoleConfig, *, report: reporter.Reporter) -> None:
    """Serves until SIGTERM. Raises `ConfigError` and its like for what is wrong with configuration or files."""
    worker = executor.ComputeExecutor(name=f"compute {config.name}", torch_threads=config.torch_threads)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(worker.close)
        report.say(role_events.RoleEventKind.LOADING, message=f"loading layers {_bounds(config)}")
        (backend, served), _ = await worker.run(lambda: _load(config))
        stopping = shutdown.stop_event()  # until here SIGTERM simply ends the process: there is nothing to drain
        time = clock.LoopClock()
        engine = engines.Engine(
            backend,
            config=_engine_config(config.engine),
            executor=worker,
            clock=time,
            cost=_cost(config),
        )
        traces = tracing.set_up(tier="cloud", topology=config.topology, instance=config.name)
        stack.callback(traces.shutdown)
        service = hidden_state_service.HiddenStateService(
            engine,
            served=served,
            spans=cloud_span.CloudSpans(traces.tracer),
            clock=time,
        )
        await engine.warm_up()
        compute_counters = counters.ComputeCounters(worker)
        shutdown.on_stats_request(lambda: report.say(role_events.RoleEventKind.STATS, data=compute_counters.read()))
        listening = await server.serve(service, host=config.listen.host, port=config.listen.port)
        stack.push_async_callback(listening.stop)
        async with asyncio.TaskGroup() as group:
            group.create_task(engine.run())
            report.say(role_events.RoleEventKind.SERVING, host=config.listen.host, port=listening.port)
            report.say(
                role_events.RoleEventKind.READY,
                host=config.listen.host,
                port=listening.port,
                message=f"layers {_bounds(config)} on port {listening.port}",
                data={"model_digest": served.model_digest},
            )
            await stopping.wait()
            await listening.stop(_DRAIN_S)  # the engine outlives the server: open sessions are answered meanwhile
            await engine.stop()
    report.say(role_events.RoleEventKind.STOPPED)


def _load(
    config: role_config.CloudRoleConfig,
) -> tuple[slice_backend.SliceBackend, hidden_state_service.Served]:
    """On the executor's thread; reads the slice's tensors only."""
    from milliner.engine import slice_backend
    from milliner.model import checkpoint, digest
    from milliner.model import slice as slices
    from milliner.roles import accelerators

    folder = pathlib.Path(config.model.path)
    opened = checkpoint.Checkpoint.open(folder)
    found = digest.model_digest(folder)
    for problem in model_checks.check_digest(pinned=config.model.digest, found=found):
        raise errors.ConfigError(problem.message, field=problem.path)
    spec = slices.SliceSpec(start=config.slice.start, end=config.slice.end, embedding=False, lm_head=False)
    dtype = accelerators.dtype(config.model.dtype)
    loaded = slices.load_slice(opened, spec, dtype=dtype, torch_device=accelerators.torch_device(config.accelerator))
    served = hidden_state_service.Served(
        model_digest=found,
        slice_start=spec.start,
        slice_end=spec.end,
        hidden_size=loaded.hidden_size,
        dtype=dtype,
    )
    return slice_backend.SliceBackend(loaded, config=_engine_config(config.engine)), served


def _engine_config(wanted: role_config.EngineLimits) -> limits.EngineConfig:
    return limits.EngineConfig(
        kv_cache_bytes=wanted.kv_cache_bytes,
        max_batch_tokens=wanted.max_batch_tokens,
        page_tokens=wanted.page_tokens,
        max_sessions=wanted.max_sessions,
        session_idle_s=wanted.session_idle_s,
        max_frame_tokens=wanted.max_frame_tokens,
    )


def _cost(config: role_config.CloudRoleConfig) -> compute.ComputeCost | None:
    """The emulated accelerator's g(x), or None for the real one."""
    emulated = config.emulation.compute if config.emulation is not None else None
    if emulated is None or emulated.layers is None:
        return None
    layers = emulated.layers
    return compute.ComputeCost(fixed_s=layers.fixed_microseconds / 1e6, per_token_s=layers.per_token_microseconds / 1e6)


def _bounds(config: role_config.CloudRoleConfig) -> str:
    return f"[{config.slice.start}, {config.slice.end})"
