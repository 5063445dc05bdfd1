"""From a topology whose tiers run whole models (PDDevice, CloudOnly, DeviceOnly) to each role's configuration. Pure.

As `plan` does for split strategies: the caller reads what only files can tell, chooses ports, and writes the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from milliner.contract import availability, devices, errors, kinds, names, plan, role_config, strategy, topology
from milliner.contract.emulation import check_time_scale

TYPES = frozenset({kinds.StrategyType.PD_DEVICE, kinds.StrategyType.CLOUD_ONLY, kinds.StrategyType.DEVICE_ONLY})


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A whole model as roles find it."""

    files: role_config.ModelFiles
    layers: int


@dataclasses.dataclass(frozen=True, slots=True)
class Resolved:
    """A topology with everything known that roles need, apart from ports and endpoints. `pool_models` names the pools
    that have a model of their own."""

    topology: topology.InferenceTopology
    model: Model
    pool_models: Mapping[str, Model]
    time_scale: float

    @property
    def has_cloud(self) -> bool:
        return self.topology.spec.strategy.type is not kinds.StrategyType.DEVICE_ONLY


def resolve(
    wanted: topology.InferenceTopology,
    *,
    facts: plan.ModelFacts,
    pool_facts: Mapping[str, plan.ModelFacts],
    time_scale: float = 1.0,
) -> Resolved:
    """Resolves defaults and checks what can be checked without the files; raises `SpecInvalid` with every problem."""
    check_time_scale(time_scale)
    if problems := _problems(wanted):
        raise errors.SpecInvalid(problems)
    spec = wanted.spec
    own = {
        pool.name: _model(wanted, pool_facts[pool.name], dtype=pool.model.dtype, digest=pool.model.digest)
        for pool in spec.device_pools
        if pool.model is not None
    }
    return Resolved(
        topology=wanted,
        model=_model(wanted, facts, dtype=spec.model.dtype, digest=spec.model.digest),
        pool_models=own,
        time_scale=time_scale,
    )


def prefill_configs(
    resolved: Resolved, *, ports: Sequence[int] | None = None
) -> tuple[role_config.PrefillRoleConfig, ...]:
    """One configuration per cloud replica on one machine; none with DeviceOnly."""
    spec = resolved.topology.spec
    count = spec.cloud.desired_replicas if resolved.has_cloud else 0
    chosen = [0] * count if ports is None else list(ports)
    assert len(chosen) == count, f"{len(chosen)} ports for {count} replicas"
    options = spec.strategy.pd_device or strategy.PDDeviceOptions()
    return tuple(
        role_config.PrefillRoleConfig(
            topology=resolved.topology.name,
            name=names.cloud_name(resolved.topology.name, index),
            model=resolved.model.files,
            layers=resolved.model.layers,
            listen=role_config.Listen(port=port),
            engine=plan.engine_limits(spec.cloud, kv_cache_bytes=spec.cloud.kv_cache_bytes),
            scheduler=options.scheduler,
            emulation=spec.cloud.emulation and spec.cloud.emulation.scaled(resolved.time_scale),
        )
        for index, port in enumerate(chosen)
    )


def device_configs(
    resolved: Resolved, *, cloud_endpoints: Sequence[str], ports: Sequence[int] | None = None
) -> tuple[role_config.WholeDeviceRoleConfig, ...]:
    """One configuration per device, in the order of `plan.device_places`."""
    return tuple(
        _device_config(resolved, seat.pool, name=seat.name, port=seat.port, cloud_endpoints=cloud_endpoints)
        for seat in plan.device_seats(resolved.topology, ports=ports)
    )


def _device_config(
    resolved: Resolved, pool: devices.DevicePool, *, name: str, port: int, cloud_endpoints: Sequence[str]
) -> role_config.WholeDeviceRoleConfig:
    spec = resolved.topology.spec
    model = resolved.pool_models.get(pool.name, resolved.model)
    options = spec.strategy.pd_device or strategy.PDDeviceOptions()
    return role_config.WholeDeviceRoleConfig(
        topology=resolved.topology.name,
        name=name,
        model=model.files,
        layers=model.layers,
        listen=role_config.Listen(port=port),
        pool=pool.name,
        strategy=role_config.WholeStrategy(
            type=spec.strategy.type,
            cloud_tokens=options.cloud_tokens,
            pacing=_pacing(options.pacing, resolved.time_scale),
        ),
        cloud_model_digest=spec.model.digest,
        cloud_endpoints=tuple(cloud_endpoints) if resolved.has_cloud else (),
        max_concurrent_requests=pool.api.max_concurrent_requests,
        objectives=spec.objectives,
        fallback=spec.fallback,
        emulation=pool.emulation and pool.emulation.scaled(resolved.time_scale),
    )


def _problems(wanted: topology.InferenceTopology) -> list[errors.Problem]:
    spec, found = wanted.spec, list[errors.Problem]()
    kind = spec.strategy.type
    if kind not in TYPES:
        message = f"strategy.type {kind.value} splits the model: it has no whole models to plan"
        return [errors.Problem("spec.strategy.type", message)]
    if spec.cloud.pipeline_stages > 1:
        found.append(
            errors.Problem(
                "spec.cloud.pipelineStages",
                f"cloud.pipelineStages is {spec.cloud.pipeline_stages}, but {kind.value} runs the whole model in one "
                "process: use 1",
            )
        )
    if spec.cloud.engine.type is kinds.EngineType.EXTERNAL:
        found.append(
            errors.Problem(
                "spec.cloud.engine.type", "cloud.engine.type External is not available in this version: use Builtin"
            )
        )
    return found + availability.nobody_answers(spec, needs_cloud=kind is not kinds.StrategyType.DEVICE_ONLY)


def _model(
    wanted: topology.InferenceTopology, facts: plan.ModelFacts, *, dtype: kinds.Dtype, digest: str | None
) -> Model:
    files = role_config.ModelFiles(
        path=facts.model_path,
        served_name=wanted.served_name,
        dtype=facts.dtype if dtype is kinds.Dtype.AUTO else dtype,
        digest=digest,
    )
    return Model(files=files, layers=facts.num_layers)


def _pacing(wanted: strategy.Pacing, time_scale: float) -> strategy.Pacing:
    return strategy.Pacing(
        min_interval_milliseconds=round(wanted.min_interval_milliseconds * time_scale),
        max_interval_milliseconds=max(1, min(10_000, round(wanted.max_interval_milliseconds * time_scale))),
    )
