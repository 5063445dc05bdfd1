"""From a topology whose tiers run whole models (PDDevice, CloudOnly, DeviceOnly) to each role's configuration. Pure.

As `plan` does for split strategies: the caller reads what only files can tell, chooses ports, and writes the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from milliner.contract import (
    availability,
    cloud,
    devices,
    errors,
    kinds,
    names,
    operations,
    plan,
    role_config,
    strategy,
    topology,
)
from milliner.contract.emulation import check_time_scale
from milliner.contract.model import ModelSpec

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
        return has_cloud(self.topology)

    @property
    def external(self) -> cloud.ExternalEngine | None:
        """The server of somebody else's that takes the place of cloud replicas, if one does."""
        return self.topology.spec.cloud.engine.external if self.has_cloud else None


def has_cloud(wanted: topology.InferenceTopology) -> bool:
    """Whether a topology has a cloud tier at all, by its strategy."""
    return wanted.spec.strategy.type is not kinds.StrategyType.DEVICE_ONLY


def resolve(
    wanted: topology.InferenceTopology,
    *,
    facts: plan.ModelFacts,
    pool_facts: Mapping[str, plan.ModelFacts],
    time_scale: float = 1.0,
    may_rest: bool = False,
) -> Resolved:
    """Resolves defaults and checks what can be checked without the files; `may_rest`: the cloud may have 0 replicas.

    Raises `SpecInvalid` with every problem (*expected*).
    """
    check_time_scale(time_scale)
    if problems := _problems(wanted, may_rest=may_rest) or _other_tokenizers(wanted, facts, pool_facts):
        raise errors.SpecInvalid(problems)
    spec = wanted.spec
    own = {
        pool.name: _model(wanted, pool_facts[pool.name], pool.model)
        for pool in spec.device_pools
        if pool.model is not None
    }
    return Resolved(
        topology=wanted,
        model=_model(wanted, facts, spec.model),
        pool_models=own,
        time_scale=time_scale,
    )


def prefill_configs(
    resolved: Resolved, *, ports: Sequence[int] | None = None
) -> tuple[role_config.PrefillRoleConfig, ...]:
    """One configuration per cloud replica on one machine; none with DeviceOnly or where the engine is external."""
    spec = resolved.topology.spec
    count = spec.cloud.desired_replicas if resolved.has_cloud else 0
    chosen = [0] * count if ports is None else list(ports)
    assert len(chosen) == count, f"{len(chosen)} ports for {count} replicas"
    return tuple(
        prefill_config(resolved, name=names.cloud_name(resolved.topology.name, index), port=port)
        for index, port in enumerate(chosen)
    )


def prefill_config(resolved: Resolved, *, name: str, port: int) -> role_config.PrefillRoleConfig:
    """The configuration of one cloud replica; in a cluster that of all, which take their own names."""
    spec = resolved.topology.spec
    options = spec.strategy.pd_device or strategy.PDDeviceOptions()
    preempts = options.scheduler is kinds.SchedulerType.SKIP_JOIN_MLFQ
    return role_config.PrefillRoleConfig(
        topology=resolved.topology.name,
        name=name,
        model=resolved.model.files,
        layers=resolved.model.layers,
        listen=role_config.Listen(port=port),
        engine=plan.engine_limits(
            spec.cloud,
            kv_cache_bytes=spec.cloud.kv_cache_bytes,
            kv_swap_bytes=spec.cloud.kv_swap_bytes if preempts else 0,
        ),
        scheduler=options.scheduler,
        emulation=spec.cloud.emulation and spec.cloud.emulation.scaled(resolved.time_scale),
    )


def device_configs(
    resolved: Resolved,
    *,
    cloud_endpoints: Sequence[str],
    ports: Sequence[int] | None = None,
    api_key_file: str | None = None,
) -> tuple[role_config.WholeDeviceRoleConfig, ...]:
    """One configuration per device, in the order of `plan.device_places`; see `device_config`."""
    return tuple(
        device_config(
            resolved,
            seat.pool,
            name=seat.name,
            port=seat.port,
            cloud_endpoints=cloud_endpoints,
            api_key_file=api_key_file,
        )
        for seat in plan.device_seats(resolved.topology, ports=ports)
    )


def device_config(
    resolved: Resolved,
    pool: devices.DevicePool,
    *,
    name: str,
    port: int,
    cloud_endpoints: Sequence[str],
    api_key_file: str | None = None,
) -> role_config.WholeDeviceRoleConfig:
    """The configuration of one device of a pool; in a cluster that of all, which take their own names.

    `api_key_file` is where the key of an external engine lies on the device, if it asks for one.
    """
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
            refinement=options.refinement,
            pacing=_pacing(options.pacing, resolved.time_scale),
        ),
        cloud_model_digest=spec.model.digest,
        engine=role_config.EngineLimits(kv_cache_bytes=pool.kv_cache_mebibytes * 1024 * 1024),
        cloud_endpoints=tuple(cloud_endpoints) if resolved.has_cloud and resolved.external is None else (),
        external=_external(resolved.external, api_key_file=api_key_file),
        max_concurrent_requests=pool.api.max_concurrent_requests,
        objectives=_objectives(spec.objectives, resolved.time_scale),
        fallback=spec.fallback,
        emulation=pool.emulation and pool.emulation.scaled(resolved.time_scale),
    )


def _problems(wanted: topology.InferenceTopology, *, may_rest: bool) -> list[errors.Problem]:
    spec, kind = wanted.spec, wanted.spec.strategy.type
    if kind not in TYPES:
        message = f"strategy.type {kind.value} splits the model: it has no whole models to plan"
        return [errors.Problem("spec.strategy.type", message)]
    needs_replicas = has_cloud(wanted) and spec.cloud.engine.external is None and not may_rest
    return availability.nobody_answers(spec, needs_cloud=needs_replicas)


def _other_tokenizers(
    wanted: topology.InferenceTopology, facts: plan.ModelFacts, pool_facts: Mapping[str, plan.ModelFacts]
) -> list[errors.Problem]:
    """Problems of pools whose own model cannot go on with the cloud's token ids."""
    if wanted.spec.strategy.type is not kinds.StrategyType.PD_DEVICE or facts.tokenizer_digest is None:
        return []
    found = []
    for index, pool in enumerate(wanted.spec.device_pools):
        own = pool_facts[pool.name].tokenizer_digest if pool.model is not None else None
        if own is not None and own != facts.tokenizer_digest:
            message = (
                f"devicePools: the model of pool {pool.name} has a tokenizer with digest {own}, that of model.source "
                f"has {facts.tokenizer_digest}: with PDDevice both tiers need the same, name a model of the same family"
            )
            found.append(errors.Problem(f"spec.devicePools[{index}].model.source", message))
    return found


def _external(wanted: cloud.ExternalEngine | None, *, api_key_file: str | None) -> role_config.ExternalServer | None:
    if wanted is None:
        return None
    return role_config.ExternalServer(
        url=wanted.url,
        model=wanted.model,
        api_key_file=api_key_file if wanted.api_key_secret_ref is not None else None,
    )


def _model(wanted: topology.InferenceTopology, facts: plan.ModelFacts, spec: ModelSpec) -> Model:
    files = role_config.ModelFiles(
        path=facts.model_path,
        served_name=spec.served_name or wanted.served_name,
        dtype=facts.dtype if spec.dtype is kinds.Dtype.AUTO else spec.dtype,
        digest=spec.digest,
    )
    return Model(files=files, layers=facts.num_layers)


def _pacing(wanted: strategy.Pacing, time_scale: float) -> strategy.Pacing:
    return strategy.Pacing(
        min_interval_milliseconds=round(wanted.min_interval_milliseconds * time_scale),
        max_interval_milliseconds=max(1, min(10_000, round(wanted.max_interval_milliseconds * time_scale))),
    )


def _objectives(wanted: operations.Objectives, time_scale: float) -> operations.Objectives:
    return operations.Objectives(
        time_to_first_token_milliseconds=_scaled(wanted.time_to_first_token_milliseconds, time_scale),
        time_per_output_token_milliseconds=_scaled(wanted.time_per_output_token_milliseconds, time_scale),
    )


def _scaled(milliseconds: int, time_scale: float) -> int:
    """Within what the field may be."""
    return max(1, min(600_000, round(milliseconds * time_scale)))
