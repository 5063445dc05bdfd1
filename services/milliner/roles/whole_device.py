"""The device's role for whole models: one of its own, one in the cloud, or both. Wiring only; what it does then is
`answering`'s.

A device with a model of its own is ready without a cloud: it answers alone while none can be reached.
"""

from __future__ import annotations

import dataclasses
import pathlib
import secrets
from typing import TYPE_CHECKING

from milliner.api import tokenizer
from milliner.contract import kinds, role_config, role_events
from milliner.core import compute, errors, generation, types
from milliner.engine import executor
from milliner.roles import answering, cloud, external_engine, links, proving, readiness, reporter, runtime, whole_models
from milliner.strategies import base, cloud_tokens, factory, options, whole_request
from milliner.strategies.cloud_only import strategy as cloud_only
from milliner.strategies.device_only import strategy as device_only
from milliner.strategies.pd_device import strategy as pd_device
from milliner.wire import client, tls
from milliner.wire.external import transport as external_transport

if TYPE_CHECKING:
    from milliner.engine import engine as engines


@dataclasses.dataclass(frozen=True, slots=True)
class _Own:
    """The device's own model."""

    ports: whole_request.DevicePorts
    engine: engines.Engine


@dataclasses.dataclass(frozen=True, slots=True)
class _Cloud:
    """The way to the cloud's: to replicas of our own, or to somebody else's engine."""

    ports: cloud_tokens.CloudPorts
    transport: client.GrpcTokenTransport | external_transport.ExternalTransport


class _NoCloudNeeded:
    """Implements `readiness.Cloud` for a device that answers alone if it has to."""

    async def why_unreachable(self) -> str:
        return ""


async def run(config: role_config.WholeDeviceRoleConfig, *, report: reporter.Reporter) -> None:
    """Serves until SIGTERM. Raises `ConfigError` and its like for what is wrong with configuration or files."""
    kind = config.strategy.type
    async with runtime.started(config, report=report) as running:
        report.say(role_events.RoleEventKind.LOADING, message=_loading(kind))
        codec, _ = await running.worker.run(
            lambda: tokenizer.HuggingFaceTokenizer.load(pathlib.Path(config.model.path))
        )
        own = None if kind is kinds.StrategyType.CLOUD_ONLY else await _own(config, running)
        info = own.ports.model.info if own is not None else await _expected(config, running.worker)
        behind = None if kind is kinds.StrategyType.DEVICE_ONLY else await _cloud(config, info, codec, running)
        generator = await _generator(config, own=own, behind=behind)
        found = answering.Answering(
            generator=generator,
            codec=codec,
            model_digest=info.model_digest,
            vocab_size=info.vocab_size,
            max_positions=info.max_positions,
            kv_used_share=lambda: own.engine.load().kv_used_share if own is not None else 0.0,
            cloud=_needed(config, own=own, behind=behind),
            behind=_watched(generator, behind),
            alone=behind is None,
            refines=kind is kinds.StrategyType.PD_DEVICE and _least_kept(config) < 1.0,
            cloud_positions=lambda: _cloud_positions(own=own, behind=behind),
            on_trouble=lambda heard: setattr(behind.transport, "on_trouble", heard) if behind is not None else None,
        )
        await answering.serve(found, config, running=running)


async def _own(config: role_config.WholeDeviceRoleConfig, running: runtime.Runtime) -> _Own:
    """The device's own model on a running engine."""
    limits = dataclasses.replace(cloud.engine_config(config.engine), kv_cache_field="devicePools[].kvCacheMebibytes")
    loaded, _ = await running.worker.run(
        lambda: whole_models.load(config.model, accelerator=config.accelerator, config=limits)
    )
    engine = whole_models.engine(
        loaded,
        config=limits,
        policy=whole_models.policy(
            kinds.SchedulerType.FIRST_COME_FIRST_SERVED, max_sequences=config.engine.max_batch_sequences
        ),
        cost=_cost(config),
        running=running,
    )
    await running.stack.enter_async_context(whole_models.running(engine))
    # No answer may want more than the device has memory for: its clients see that limit, and are refused by it.
    room = min(loaded.info.max_positions, engine.capacity_tokens)
    bounded = dataclasses.replace(loaded, info=dataclasses.replace(loaded.info, max_positions=room))
    model = whole_models.model(bounded, engine, origin=types.TokenOrigin.DEVICE)
    return _Own(whole_request.DevicePorts(clock=running.clock, model=model), engine)


async def _expected(
    config: role_config.WholeDeviceRoleConfig, worker: executor.ComputeExecutor
) -> generation.WholeModelInfo:
    """What a device without a model of its own expects of the cloud's: it has its tokenizer and its configuration."""
    from milliner.model import checkpoint, tokenizer_digest

    def read() -> generation.WholeModelInfo:
        folder = pathlib.Path(config.model.path)
        facts = checkpoint.Checkpoint.described(folder, lambda _: {})  # no weights are there
        return generation.WholeModelInfo(
            model_digest=config.cloud_model_digest or "",
            tokenizer_digest=tokenizer_digest.tokenizer_digest(folder),
            num_layers=facts.num_layers,
            vocab_size=facts.config.vocab_size,
            max_positions=facts.config.max_position_embeddings,
        )

    info, _ = await worker.run(read)
    return info


async def _cloud(
    config: role_config.WholeDeviceRoleConfig,
    info: generation.WholeModelInfo,
    codec: tokenizer.HuggingFaceTokenizer,
    running: runtime.Runtime,
) -> _Cloud:
    transport: client.GrpcTokenTransport | external_transport.ExternalTransport
    if config.external is not None:
        transport = await external_engine.connect(config.external, config, codec=codec, running=running)
    else:
        transport = await _replicas(config, running)
    expected = dataclasses.replace(info, model_digest=config.cloud_model_digest or "")
    scope = cloud_tokens.CloudPorts(
        clock=running.clock,
        transport=transport,
        info=expected,
        new_session_id=lambda: secrets.token_hex(factory.SESSION_ID_BYTES),
        max_positions=lambda: transport.max_positions,
    )
    return _Cloud(scope, transport)


async def _replicas(config: role_config.WholeDeviceRoleConfig, running: runtime.Runtime) -> client.GrpcTokenTransport:
    if not config.cloud_endpoints:
        raise errors.ConfigError("is empty: name host:port of each cloud replica", field="cloud_endpoints")
    transport = client.GrpcTokenTransport(
        config.cloud_endpoints,
        identity=tls.Identity(config.tls) if config.tls is not None else None,
        route=await links.route(config, running.stack),
    )
    running.stack.push_async_callback(transport.close)
    return transport


async def _generator(
    config: role_config.WholeDeviceRoleConfig, *, own: _Own | None, behind: _Cloud | None
) -> base.Generator:
    waits = config.fallback.on_cloud_loss is kinds.OnCloudLoss.WAIT
    if own is None:
        assert behind is not None
        recovery = options.RecoveryOptions(wait_s=float(config.fallback.wait_seconds) if waits else 0.0)
        return cloud_only.CloudOnly(behind.ports, recovery)
    if behind is None:
        return device_only.DeviceOnly(own.ports)
    strategy = pd_device.PDDevice(behind.ports, own.ports, _pd_device_options(config))
    await strategy.measure()
    return strategy


def _pd_device_options(config: role_config.WholeDeviceRoleConfig) -> options.PDDeviceOptions:
    """Tokens are shown no further apart than pacing and objectives both allow."""
    wanted, aims = config.strategy, config.objectives
    longest_ms = min(wanted.pacing.max_interval_milliseconds, aims.time_per_output_token_milliseconds)
    return options.PDDeviceOptions(
        max_cloud_tokens=wanted.cloud_tokens.max,
        fixed_cloud_tokens=wanted.cloud_tokens.mode is kinds.CloudTokensMode.FIXED,
        min_interval_s=min(wanted.pacing.min_interval_milliseconds, longest_ms) / 1e3,
        max_interval_s=longest_ms / 1e3,
        first_token_s=aims.time_to_first_token_milliseconds / 1e3,
        least_kept=_least_kept(config),
        fails_without_cloud=config.fallback.on_cloud_loss is kinds.OnCloudLoss.FAIL,
    )


def _least_kept(config: role_config.WholeDeviceRoleConfig) -> float:
    """1 where prompts stay whole: unasked, or with a cloud of others, which says nothing of its attention."""
    wanted = config.strategy.refinement
    whole = wanted.mode is kinds.RefinementMode.OFF or config.external is not None
    return 1.0 if whole else wanted.min_keep_percent / 100


def _needed(config: role_config.WholeDeviceRoleConfig, *, own: _Own | None, behind: _Cloud | None) -> readiness.Cloud:
    fails = config.fallback.on_cloud_loss is kinds.OnCloudLoss.FAIL
    if behind is None or (own is not None and not fails):
        return _NoCloudNeeded()
    return behind.transport


def _cloud_positions(*, own: _Own | None, behind: _Cloud | None) -> int:
    """What the cloud holds of prompt and answer, where that bounds an answer; 0: it does not. A device with a model of
    its own goes on behind what the cloud has room for."""
    return behind.transport.max_positions if behind is not None and own is None else 0


def _watched(generator: base.Generator, behind: _Cloud | None) -> proving.Behind | None:
    """The cloud of a device that may answer alone: asked for all tokens of a request, it proves that it gives any."""
    if not isinstance(generator, pd_device.PDDevice) or behind is None:
        return None
    alone = cloud_only.CloudOnly(behind.ports, options.RecoveryOptions(wait_s=0.0))
    return proving.Behind(alone, behind.transport, on_back=generator.cloud_is_back)


def _cost(config: role_config.WholeDeviceRoleConfig) -> compute.GenerationCost | None:
    """The emulated device's durations, or None for the real one."""
    modelled = config.emulation.compute if config.emulation is not None else None
    if modelled is None or modelled.whole_model is None:
        return None
    whole = modelled.whole_model
    return compute.GenerationCost(
        prompt_token_s=whole.prompt_token_microseconds / 1e6, step_s=whole.step_microseconds / 1e6
    )


def _loading(kind: kinds.StrategyType) -> str:
    return "loading the tokenizer" if kind is kinds.StrategyType.CLOUD_ONLY else "loading the whole model"
