"""The cloud role: layers [start, end) of a checkpoint behind a gRPC port. Wiring only.

Life: open the folder, check digest and bounds, load the slice, listen, warm up, report ready, serve; at SIGTERM refuse
new sessions, give open ones `drain_seconds`, end. SIGUSR1 writes the counters that benches read. While its own
certificate is no good the replica says NOT_SERVING: no device could open a session. So does a stage of a pipeline while
the stages behind it cannot be used (`chain`); it is ready when they are. One whose accelerator hangs says so by all
means, liveness too: only a restart mends it.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from milliner.contract import emulation, model_checks, role_config, role_events
from milliner.core import compute, errors, types
from milliner.engine import engine as engines
from milliner.engine import limits
from milliner.roles import chain, cloud_serving, exporting, hidden_state_service, reporter, runtime
from milliner.telemetry import cloud_metrics, cloud_span
from milliner.wire import tls

if TYPE_CHECKING:
    from milliner.engine import slice_backend


async def run(config: role_config.CloudRoleConfig, *, report: reporter.Reporter) -> None:
    """Serves until SIGTERM. Raises `ConfigError` and its like for what is wrong with configuration or files."""
    identity = tls.Identity(config.tls) if config.tls is not None else None
    async with runtime.started(config, report=report) as running:
        report.say(role_events.RoleEventKind.LOADING, message=f"loading layers {_bounds(config)}")
        (backend, served), _ = await running.worker.run(lambda: _load(config))
        engine = engines.Engine(
            backend,
            config=engine_config(config.engine),
            executor=running.worker,
            clock=running.clock,
            cost=compute_cost(config.emulation),
        )
        metrics = cloud_metrics.CloudMetrics(clock=running.clock)
        behind = await _chain(config, served=served, identity=identity, running=running)
        own = hidden_state_service.HiddenStateService(
            engine,
            served=served,
            spans=cloud_span.CloudSpans(exporting.tracer(config, tier="cloud", stack=running.stack)),
            clock=running.clock,
            metrics=metrics,
        )
        serving = cloud_serving.Serving(
            what=f"layers {_bounds(config)}",
            model_digest=served.model_digest,
            engine=engine,
            metrics=metrics,
            hidden_states=own if behind is None else behind.stage(own),
            why_not_behind=lambda: "" if behind is None else behind.reason,
            keep_behind=None if behind is None else behind.keep,
        )
        await cloud_serving.serve(serving, config, engine_limits=config.engine, identity=identity, running=running)


async def _chain(
    config: role_config.CloudRoleConfig,
    *,
    served: hidden_state_service.Served,
    identity: tls.Identity | None,
    running: runtime.Runtime,
) -> chain.Chain | None:
    """The stages behind this one, if there are any."""
    if config.next_stage is None:
        return None
    codec = types.Codec(config.model.dtype.value)  # raw, so that a cut between stages changes no number
    behind = chain.Chain(config.next_stage, served=served, codec=codec, identity=identity, clock=running.clock)
    return await running.stack.enter_async_context(behind)


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
    return slice_backend.SliceBackend(loaded, config=engine_config(config.engine)), served


def engine_config(wanted: role_config.EngineLimits) -> limits.EngineConfig:
    """The engine's limits as values."""
    return limits.EngineConfig(
        kv_cache_bytes=wanted.kv_cache_bytes,
        kv_swap_bytes=wanted.kv_swap_bytes,
        max_batch_tokens=wanted.max_batch_tokens,
        page_tokens=wanted.page_tokens,
        max_sessions=wanted.max_sessions,
        session_idle_s=wanted.session_idle_s,
        max_frame_tokens=wanted.max_frame_tokens,
    )


def compute_cost(emulated: emulation.CloudEmulation | None) -> compute.ComputeCost | None:
    """The emulated accelerator's g(x), or None for the real one."""
    modelled = emulated.compute if emulated is not None else None
    if modelled is None or modelled.layers is None:
        return None
    layers = modelled.layers
    return compute.ComputeCost(fixed_s=layers.fixed_microseconds / 1e6, per_token_s=layers.per_token_microseconds / 1e6)


def _bounds(config: role_config.CloudRoleConfig) -> str:
    return f"[{config.slice.start}, {config.slice.end})"
