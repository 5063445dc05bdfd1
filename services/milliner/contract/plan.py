"""From a topology to the configuration of each role: defaults resolved, pools × replicas laid out. Pure.

The caller reads what only files can tell (`ModelFacts`), chooses ports, and writes the results. `resolve` first, then
`cloud_configs`, and, once the cloud's endpoints are known, `device_configs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from milliner.contract import availability, devices, errors, kinds, model_checks, names, role_config, strategy, topology
from milliner.contract.emulation import DeviceEmulation, check_time_scale


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the files say: folders on the roles' machine and the numbers that defaults and checks need."""

    model_path: str
    num_layers: int
    dtype: kinds.Dtype  # the checkpoint's own, never AUTO
    drafter_path: str | None = None  # adapter (Hat) or Medusa heads (UShape)
    drafter_split: int | None = None  # the split that the drafter was trained for


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """A topology with everything known that roles need, apart from ports and endpoints."""

    topology: topology.InferenceTopology
    model: role_config.ModelFiles
    split: role_config.Split
    strategy: role_config.DeviceStrategy
    time_scale: float


@dataclasses.dataclass(frozen=True, slots=True)
class DevicePlace:
    """One device to start: replica `index` of a pool; its API wants `port`, counted up for further replicas."""

    pool: str
    index: int
    wanted_port: int


def resolve(wanted: topology.InferenceTopology, *, facts: ModelFacts, time_scale: float = 1.0) -> Resolved:
    """Resolves defaults and checks against the model; raises `SpecInvalid` with every problem (*expected*)."""
    check_time_scale(time_scale)
    spec = wanted.spec
    if spec.strategy.type not in (kinds.StrategyType.HAT, kinds.StrategyType.U_SHAPE):
        raise errors.SpecInvalid([availability.unavailable(spec.strategy.type)])
    options = _options(spec.strategy)
    group, drafter = ("hat", "adapter") if isinstance(options, strategy.HatOptions) else ("uShape", "heads")
    split_layer = options.split_layer or facts.drafter_split or model_checks.default_split_layer(facts.num_layers)
    problems = model_checks.check_split(
        group=group, split_layer=split_layer, tail_layers=options.tail_layers, num_layers=facts.num_layers
    )
    if facts.drafter_split is not None and not problems:
        problems += model_checks.check_drafter_split(
            field=f"strategy.{group}.{drafter}", drafter_split=facts.drafter_split, split_layer=split_layer
        )
    problems += availability.refused(wanted)
    problems += _missing_adapter(options, facts=facts)
    if problems:
        raise errors.SpecInvalid(problems)
    dtype = facts.dtype if spec.model.dtype is kinds.Dtype.AUTO else spec.model.dtype
    return Resolved(
        topology=wanted,
        model=role_config.ModelFiles(
            path=facts.model_path, served_name=wanted.served_name, dtype=dtype, digest=spec.model.digest
        ),
        split=role_config.Split(layers=facts.num_layers, split_layer=split_layer, tail_layers=options.tail_layers),
        strategy=_device_strategy(spec.strategy.type, options, facts=facts, dtype=dtype),
        time_scale=time_scale,
    )


def cloud_configs(resolved: Resolved, *, ports: Sequence[int] | None = None) -> tuple[role_config.CloudRoleConfig, ...]:
    """One configuration per cloud replica; `ports` defaults to any free port for each."""
    cloud = resolved.topology.spec.cloud
    count = cloud.desired_replicas
    chosen = [0] * count if ports is None else list(ports)
    assert len(chosen) == count, f"{len(chosen)} ports for {count} replicas"
    return tuple(
        cloud_config(resolved, name=names.cloud_name(resolved.topology.name, index), port=port)
        for index, port in enumerate(chosen)
    )


def cloud_config(resolved: Resolved, *, name: str, port: int) -> role_config.CloudRoleConfig:
    """The configuration of one cloud replica; in a cluster that of all, which take their own names."""
    cloud = resolved.topology.spec.cloud
    return role_config.CloudRoleConfig(
        topology=resolved.topology.name,
        name=name,
        model=resolved.model,
        listen=role_config.Listen(port=port),
        slice=resolved.split.cloud_bounds,
        engine=role_config.EngineLimits(
            max_batch_tokens=cloud.engine.max_batch_tokens,
            max_frame_tokens=cloud.engine.max_batch_tokens,
            kv_cache_bytes=cloud.kv_cache_bytes,
            page_tokens=cloud.engine.page_tokens,
            max_sessions=cloud.engine.max_sessions,
            session_idle_s=float(cloud.engine.session_idle_seconds),
        ),
        emulation=cloud.emulation and cloud.emulation.scaled(resolved.time_scale),
    )


def device_places(wanted: topology.InferenceTopology) -> tuple[DevicePlace, ...]:
    """Every device to start, pool by pool; the runner chooses a port for each."""
    return tuple(
        DevicePlace(pool=pool.name, index=index, wanted_port=min(pool.api.port + index, 65535))
        for pool in wanted.spec.device_pools
        for index in range(pool.local_replicas)
    )


def device_configs(
    resolved: Resolved, *, cloud_endpoints: Sequence[str], ports: Sequence[int] | None = None
) -> tuple[role_config.DeviceRoleConfig, ...]:
    """One configuration per device, in the order of `device_places`; `ports` defaults to any free port for each."""
    places = device_places(resolved.topology)
    chosen = [0] * len(places) if ports is None else list(ports)
    assert len(chosen) == len(places), f"{len(chosen)} ports for {len(places)} devices"
    pools = {pool.name: pool for pool in resolved.topology.spec.device_pools}
    return tuple(
        device_config(
            resolved,
            pools[place.pool],
            name=names.device_name(resolved.topology.name, place.pool, place.index),
            port=port,
            cloud_endpoints=cloud_endpoints,
        )
        for place, port in zip(places, chosen, strict=True)
    )


def device_config(
    resolved: Resolved, pool: devices.DevicePool, *, name: str, port: int, cloud_endpoints: Sequence[str]
) -> role_config.DeviceRoleConfig:
    """The configuration of one device of a pool; in a cluster that of all, which take their own names."""
    return role_config.DeviceRoleConfig(
        topology=resolved.topology.name,
        name=name,
        model=resolved.model,
        listen=role_config.Listen(port=port),
        pool=pool.name,
        split=resolved.split,
        strategy=resolved.strategy,
        cloud_endpoints=tuple(cloud_endpoints),
        max_concurrent_requests=pool.api.max_concurrent_requests,
        objectives=resolved.topology.spec.objectives,
        fallback=resolved.topology.spec.fallback,
        emulation=_scaled(pool.emulation, resolved.time_scale),
    )


def _options(chosen: strategy.StrategySpec) -> strategy.HatOptions | strategy.UShapeOptions:
    if chosen.type is kinds.StrategyType.HAT:
        return chosen.hat or strategy.HatOptions()
    return chosen.u_shape or strategy.UShapeOptions()


def _missing_adapter(
    options: strategy.HatOptions | strategy.UShapeOptions, *, facts: ModelFacts
) -> list[errors.Problem]:
    drafts = isinstance(options, strategy.HatOptions) and options.drafting.control is not kinds.DraftControl.OFF
    if not drafts or facts.drafter_path is not None:
        return []
    return [
        errors.Problem(
            "spec.strategy.hat.adapter",
            "strategy.hat.adapter is needed: Hat drafts with an adapter trained for this model; train one with "
            "milliner train-adapter, or set drafting.control: Disabled, or type: UShape",
        )
    ]


def _device_strategy(
    kind: kinds.StrategyType,
    options: strategy.HatOptions | strategy.UShapeOptions,
    *,
    facts: ModelFacts,
    dtype: kinds.Dtype,
) -> role_config.DeviceStrategy:
    exact = kinds.Codec(dtype.value)
    hat = isinstance(options, strategy.HatOptions)
    drafting = options.drafting if isinstance(options, strategy.HatOptions) else _NO_DRAFTING
    return role_config.DeviceStrategy(
        type=kinds.StrategyType.HAT if kind is kinds.StrategyType.HAT else kinds.StrategyType.U_SHAPE,
        adapter_path=facts.drafter_path if hat else None,
        heads_path=None if hat else facts.drafter_path,
        drafting=drafting,
        chunking=strategy.Chunking(**options.chunking.model_dump()),
        prompt_codec=options.codec.prompt or exact,
        exact_tail_tokens=options.codec.exact_tail_tokens,
        decode_codec=options.codec.decode or exact,
    )


_NO_DRAFTING = strategy.Drafting(control=kinds.DraftControl.OFF)


def _scaled(emulated: DeviceEmulation | None, time_scale: float) -> DeviceEmulation | None:
    return None if emulated is None else emulated.scaled(time_scale)
