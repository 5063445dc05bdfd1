"""From a topology to the configuration of each role: defaults resolved, pools × replicas laid out. Pure.

The caller reads what only files can tell (`ModelFacts`), chooses ports, and writes the results. `resolve` first, then
`cloud_configs`, and, once the cloud's endpoints are known, `device_configs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from milliner.contract import availability, devices, errors, kinds, model_checks, names, role_config, strategy, topology
from milliner.contract import cloud as clouds
from milliner.contract.emulation import DeviceEmulation, check_time_scale


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the files say: folders on the roles' machine and the numbers that defaults and checks need."""

    model_path: str
    num_layers: int
    dtype: kinds.Dtype  # the checkpoint's own, never AUTO
    drafter_path: str | None = None  # adapter (Hat) or Medusa heads (UShape)
    drafter_split: int | None = None  # the split that the drafter was trained for
    tokenizer_digest: str | None = None  # None: not known, and then not compared


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """A topology with everything known that roles need, apart from ports and endpoints."""

    topology: topology.InferenceTopology
    model: role_config.ModelFiles
    split: role_config.Split
    strategy: role_config.DeviceStrategy
    time_scale: float


@dataclasses.dataclass(frozen=True, slots=True)
class CloudPlace:
    """One cloud process to start: replica `index` of a pipeline stage."""

    stage: int
    index: int


@dataclasses.dataclass(frozen=True, slots=True)
class DevicePlace:
    """One device to start: replica `index` of a pool; its API wants `port`, counted up for further replicas."""

    pool: str
    index: int
    wanted_port: int


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceSeat:
    """One device of a pool with its name, and the port that its API gets."""

    pool: devices.DevicePool
    name: str
    port: int


def resolve(
    wanted: topology.InferenceTopology, *, facts: ModelFacts, time_scale: float = 1.0, may_rest: bool = False
) -> Resolved:
    """Resolves defaults and checks against the model; `may_rest`: the cloud may have 0 replicas.

    Raises `SpecInvalid` with every problem (*expected*).
    """
    check_time_scale(time_scale)
    spec = wanted.spec
    if spec.strategy.type not in (kinds.StrategyType.HAT, kinds.StrategyType.U_SHAPE):
        message = f"strategy.type {spec.strategy.type.value} runs whole models: it has no split to plan"
        raise errors.SpecInvalid([errors.Problem("spec.strategy.type", message)])
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
    if not problems:
        cloud_layers = facts.num_layers - options.tail_layers - split_layer
        problems += model_checks.check_stages(stages=spec.cloud.pipeline_stages, cloud_layers=cloud_layers)
    problems += availability.refused(wanted, may_rest=may_rest)
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


def cloud_places(wanted: topology.InferenceTopology) -> tuple[CloudPlace, ...]:
    """Every cloud process to start, stage by stage; devices speak to the replicas of stage 0."""
    cloud = wanted.spec.cloud
    return tuple(
        CloudPlace(stage=stage, index=index)
        for stage in range(cloud.pipeline_stages)
        for index in range(cloud.desired_replicas)
    )


def cloud_configs(resolved: Resolved, *, ports: Sequence[int] | None = None) -> tuple[role_config.CloudRoleConfig, ...]:
    """One configuration per replica and stage on one machine, in the order of `cloud_places`.

    `ports` defaults to any free port for each, where there is one stage. Any replica of a stage hands on to any of the
    next.
    """
    places = cloud_places(resolved.topology)
    assert ports is not None or places[-1].stage == 0, "stages have to know one another's ports"
    chosen = [0] * len(places) if ports is None else list(ports)
    assert len(chosen) == len(places), f"{len(chosen)} ports for {len(places)} replicas"
    host = role_config.Listen().host
    endpoints: dict[int, list[str]] = {}
    for place, port in zip(places, chosen, strict=True):
        endpoints.setdefault(place.stage, []).append(f"{host}:{port}")
    return tuple(
        cloud_config(
            resolved,
            name=names.cloud_name(resolved.topology.name, place.index, stage=place.stage),
            port=port,
            stage=place.stage,
            next_endpoints=endpoints.get(place.stage + 1, ()),
        )
        for place, port in zip(places, chosen, strict=True)
    )


def cloud_config(
    resolved: Resolved, *, name: str, port: int, stage: int = 0, next_endpoints: Sequence[str] = ()
) -> role_config.CloudRoleConfig:
    """The configuration of one cloud replica of a stage; in a cluster that of all, which take their own names."""
    cloud, whole = resolved.topology.spec.cloud, resolved.split.cloud_bounds
    bounds = resolved.split.stage_bounds(stage, cloud.pipeline_stages)
    is_last = stage == cloud.pipeline_stages - 1
    assert is_last or next_endpoints, "a stage that is not the last has to know the next one's endpoints"
    emulated = cloud.emulation and cloud.emulation.scaled(resolved.time_scale)
    return role_config.CloudRoleConfig(
        topology=resolved.topology.name,
        name=name,
        model=resolved.model,
        listen=role_config.Listen(port=port),
        slice=bounds,
        stage=stage,
        next_stage=None if is_last else role_config.NextStage(endpoints=tuple(next_endpoints), chain_end=whole.end),
        # By layers, so that each stage has room for as many positions: a session needs them on all.
        engine=engine_limits(
            cloud, kv_cache_bytes=cloud.kv_cache_bytes * (bounds.end - bounds.start) // (whole.end - whole.start)
        ),
        emulation=emulated and emulated.share(bounds.end - bounds.start, whole.end - whole.start),
    )


def engine_limits(wanted: clouds.CloudSpec, *, kv_cache_bytes: int, kv_swap_bytes: int = 0) -> role_config.EngineLimits:
    """What the topology says of the engine, for a process with so much memory for KV caches."""
    return role_config.EngineLimits(
        max_batch_tokens=wanted.engine.max_batch_tokens,
        max_frame_tokens=wanted.engine.max_batch_tokens,
        kv_cache_bytes=kv_cache_bytes,
        kv_swap_bytes=kv_swap_bytes,
        page_tokens=wanted.engine.page_tokens,
        max_sessions=wanted.engine.max_sessions,
        session_idle_s=float(wanted.engine.session_idle_seconds),
    )


def device_places(wanted: topology.InferenceTopology) -> tuple[DevicePlace, ...]:
    """Every device to start, pool by pool; the runner chooses a port for each."""
    return tuple(
        DevicePlace(pool=pool.name, index=index, wanted_port=min(pool.api.port + index, 65535))
        for pool in wanted.spec.device_pools
        for index in range(pool.local_replicas)
    )


def device_seats(wanted: topology.InferenceTopology, *, ports: Sequence[int] | None = None) -> tuple[DeviceSeat, ...]:
    """Every device with its pool, name and port, in the order of `device_places`; `ports` defaults to any free ones."""
    places = device_places(wanted)
    chosen = [0] * len(places) if ports is None else list(ports)
    assert len(chosen) == len(places), f"{len(chosen)} ports for {len(places)} devices"
    pools = {pool.name: pool for pool in wanted.spec.device_pools}
    return tuple(
        DeviceSeat(pools[place.pool], names.device_name(wanted.name, place.pool, place.index), port)
        for place, port in zip(places, chosen, strict=True)
    )


def device_configs(
    resolved: Resolved, *, cloud_endpoints: Sequence[str], ports: Sequence[int] | None = None
) -> tuple[role_config.DeviceRoleConfig, ...]:
    """One configuration per device, in the order of `device_places`; `ports` defaults to any free port for each."""
    return tuple(
        device_config(resolved, seat.pool, name=seat.name, port=seat.port, cloud_endpoints=cloud_endpoints)
        for seat in device_seats(resolved.topology, ports=ports)
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
