"""Rules that join several fields of a topology: checked here, and by the API server as CEL rules of the CRD.

Each stands in `TABLE` beside the group that it is about. `problems` applies them to a parsed spec; `crd.schema` writes
them into the CRD. What only the model can tell is in `model_checks`. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pydantic

from milliner.contract import checks, cloud, devices, errors, kinds, operations, pod, resource_rules, strategy
from milliner.contract import spec as spec_module

OPTION_GROUPS = {
    kinds.StrategyType.HAT: "hat",
    kinds.StrategyType.U_SHAPE: "uShape",
    kinds.StrategyType.PD_DEVICE: "pdDevice",
}
_EXTERNAL_TYPES = (kinds.StrategyType.PD_DEVICE, kinds.StrategyType.CLOUD_ONLY)
_SPLIT_TYPES = (kinds.StrategyType.HAT, kinds.StrategyType.U_SHAPE)
_OWN_MODEL_TYPES = (kinds.StrategyType.PD_DEVICE, kinds.StrategyType.DEVICE_ONLY)


def _options(chosen: strategy.StrategySpec, group: str) -> object:
    return {"hat": chosen.hat, "uShape": chosen.u_shape, "pdDevice": chosen.pd_device}[group]


def _foreign_options(kind: kinds.StrategyType, owner: kinds.StrategyType) -> checks.Rule:
    """With strategy `kind`, the option group of another strategy, `owner`, is not set."""
    own_group, group = OPTION_GROUPS.get(kind), OPTION_GROUPS[owner]
    remedy = f"move the options to strategy.{own_group}" if own_group else "remove it"
    return checks.Rule(
        holds=lambda chosen: chosen.type is not kind or _options(chosen, group) is None,
        cel=f"self.type != '{kind}' || !has(self.{group})",
        message=f"strategy.{group} is set but strategy.type is {kind}: {remedy} or set type: {owner}",
        field=f".{group}",
    )


_STRATEGY = tuple(
    _foreign_options(kind, owner) for owner in OPTION_GROUPS for kind in kinds.StrategyType if kind is not owner
)

_CHUNKING = (
    checks.Rule(
        holds=lambda chunking: chunking.min_tokens <= chunking.max_tokens,
        cel="self.minTokens <= self.maxTokens",
        message="chunking.minTokens ({minTokens}) is above maxTokens ({maxTokens})",
    ),
    checks.Rule(
        holds=lambda chunking: "tokens" not in chunking.model_fields_set or chunking.mode is kinds.ChunkingMode.FIXED,
        cel="!has(self.tokens) || self.mode == 'Fixed'",
        message="chunking.tokens is set but chunking.mode is {mode}: set mode: Fixed, or use minTokens and maxTokens "
        "with mode: Dynamic",
    ),
)

_PACING = (
    checks.Rule(
        holds=lambda pacing: pacing.min_interval_milliseconds <= pacing.max_interval_milliseconds,
        cel="self.minIntervalMilliseconds <= self.maxIntervalMilliseconds",
        message="pacing.minIntervalMilliseconds ({minIntervalMilliseconds}) is above maxIntervalMilliseconds "
        "({maxIntervalMilliseconds})",
    ),
)

_CLOUD = (
    checks.Rule(
        holds=lambda tier: tier.replicas is None or tier.scaling is None,
        cel="!has(self.replicas) || !has(self.scaling)",
        message="cloud.replicas and cloud.scaling are both set: with scaling, drop replicas",
    ),
    checks.Rule(
        holds=lambda tier: tier.engine.type is kinds.EngineType.BUILTIN or not (tier.replicas or tier.scaling),
        cel="self.engine.type == 'Builtin' || ((!has(self.replicas) || self.replicas == 0) && !has(self.scaling))",
        message="cloud.engine.type is External, whose replicas are not started here: drop cloud.replicas and "
        "cloud.scaling",
        field=".engine.type",
    ),
)

_SCALING = (
    checks.Rule(
        holds=lambda scaling: scaling.min_replicas <= scaling.max_replicas,
        cel="self.minReplicas <= self.maxReplicas",
        message="scaling.minReplicas ({minReplicas}) is above maxReplicas ({maxReplicas})",
    ),
)

_ENGINE = (
    checks.Rule(
        holds=lambda engine: engine.type is not kinds.EngineType.EXTERNAL or engine.external is not None,
        cel="self.type != 'External' || has(self.external)",
        message="cloud.engine.type is External but external is not set: give external.url",
        field=".external",
    ),
    checks.Rule(
        holds=lambda engine: engine.type is not kinds.EngineType.BUILTIN or engine.external is None,
        cel="self.type != 'Builtin' || !has(self.external)",
        message="cloud.engine.external is set but engine.type is Builtin: drop external or set engine.type: External",
        field=".external",
    ),
)

_TLS = (
    checks.Rule(
        holds=lambda tls: tls.mode is not kinds.TlsMode.CERT_MANAGER or tls.issuer_ref is not None,
        cel="self.mode != 'CertManager' || has(self.issuerRef)",
        message="tls.mode is CertManager but issuerRef is not set: give issuerRef.name",
        field=".issuerRef",
    ),
    checks.Rule(
        holds=lambda tls: tls.mode is kinds.TlsMode.CERT_MANAGER or tls.issuer_ref is None,
        cel="self.mode == 'CertManager' || !has(self.issuerRef)",
        message="tls.issuerRef is set but tls.mode is {mode}: drop issuerRef or set mode: CertManager",
        field=".issuerRef",
    ),
)

_ISSUER = (
    checks.Rule(
        holds=lambda issuer: (
            issuer.group != operations.CERT_MANAGER_GROUP or issuer.kind in operations.CERT_MANAGER_KINDS
        ),
        cel=f"self.group != '{operations.CERT_MANAGER_GROUP}' || "
        f"self.kind in {checks.cel_list(operations.CERT_MANAGER_KINDS)}",
        message="tls.issuerRef.kind is {kind}, which cert-manager.io does not have: use Issuer or ClusterIssuer, "
        "or give the group of an external issuer",
        field=".kind",
    ),
)


_DEVICE_API = (
    checks.Rule(
        holds=lambda api: api.port != devices.HEALTH_PORT,
        cel=f"self.port != {devices.HEALTH_PORT}",
        message="api.port is {port}, where each pod has health and metrics: use another",
        field=".port",
    ),
)


def _repeated(spec: spec_module.TopologySpec) -> list[tuple[str, int]]:
    """Names that several pools have, with how many."""
    counts = Counter(pool.name for pool in spec.device_pools)
    return [(name, count) for name, count in counts.items() if count > 1]


def _preempts(chosen: strategy.StrategySpec) -> bool:
    return chosen.pd_device is not None and chosen.pd_device.scheduler is kinds.SchedulerType.SKIP_JOIN_MLFQ


def _own_models(spec: spec_module.TopologySpec) -> list[str]:
    """Names of the pools that name a model of their own."""
    return [pool.name for pool in spec.device_pools if pool.model is not None]


def _elsewhere(spec: spec_module.TopologySpec) -> list[str]:
    """Names of the pools that live in another cluster."""
    return [pool.name for pool in spec.device_pools if pool.cluster_secret_ref is not None]


_CEL_ELSEWHERE = "self.devicePools.filter(p, has(p.clusterSecretRef))"
_CEL_REPEATED = "self.devicePools.filter(p, !self.devicePools.exists_one(q, q.name == p.name))"
_CEL_OWN_MODELS = "self.devicePools.filter(p, has(p.model))"

_SPEC = (
    checks.Rule(
        holds=lambda spec: spec.cloud.engine.type is kinds.EngineType.BUILTIN or spec.strategy.type in _EXTERNAL_TYPES,
        cel=f"self.cloud.engine.type == 'Builtin' || self.strategy.type in {checks.cel_list(_EXTERNAL_TYPES)}",
        message="cloud.engine.type is External but strategy.type is {strategy.type}, whose cloud computes a slice: "
        "set engine.type: Builtin, or strategy.type: PDDevice or CloudOnly",
        field=".cloud.engine.type",
    ),
    checks.Rule(
        holds=lambda spec: not spec.cloud.engine.kv_swap_mebibytes or _preempts(spec.strategy),
        cel="!has(self.cloud.engine.kvSwapMebibytes) || self.cloud.engine.kvSwapMebibytes == 0 || "
        "(has(self.strategy.pdDevice) && self.strategy.pdDevice.scheduler == 'SkipJoinMLFQ')",
        message="cloud.engine.kvSwapMebibytes is set but nobody is preempted: drop it, or set strategy.type: PDDevice "
        "with pdDevice.scheduler: SkipJoinMLFQ",
        field=".cloud.engine.kvSwapMebibytes",
    ),
    checks.Rule(
        holds=lambda spec: spec.cloud.pipeline_stages == 1 or spec.strategy.type in _SPLIT_TYPES,
        cel=f"self.cloud.pipelineStages == 1 || self.strategy.type in {checks.cel_list(_SPLIT_TYPES)}",
        message="cloud.pipelineStages is {cloud.pipelineStages} but strategy.type is {strategy.type}, which runs a "
        "whole model in one process: use 1, or set type: Hat or UShape",
        field=".cloud.pipelineStages",
    ),
    checks.Rule(
        holds=lambda spec: bool(spec.device_pools) or spec.strategy.type is kinds.StrategyType.CLOUD_ONLY,
        cel="(has(self.devicePools) && size(self.devicePools) > 0) || self.strategy.type == 'CloudOnly'",
        message="devicePools: at least one pool is needed (type CloudOnly needs none)",
        field=".devicePools",
    ),
    checks.Rule(
        holds=lambda spec: not _repeated(spec),
        cel=f"!has(self.devicePools) || size({_CEL_REPEATED}) == 0",
        message="devicePools: the name {name} is used {count} times: give each pool its own",
        field=".devicePools",
        values=(
            checks.Value("name", lambda spec: _repeated(spec)[0][0], f"{_CEL_REPEATED}[0].name"),
            checks.Value(
                "count",
                lambda spec: str(_repeated(spec)[0][1]),
                f"size(self.devicePools.filter(r, r.name == {_CEL_REPEATED}[0].name))",
            ),
        ),
    ),
    checks.Rule(
        holds=lambda spec: not _own_models(spec) or spec.strategy.type in _OWN_MODEL_TYPES,
        cel=f"!has(self.devicePools) || self.strategy.type in {checks.cel_list(_OWN_MODEL_TYPES)} || "
        f"size({_CEL_OWN_MODELS}) == 0",
        message="devicePools: pool {pool} names a model but strategy.type is {strategy.type}, which splits "
        "spec.model: drop it, or set type: PDDevice or DeviceOnly",
        field=".devicePools",
        values=(checks.Value("pool", lambda spec: _own_models(spec)[0], f"{_CEL_OWN_MODELS}[0].name"),),
    ),
    checks.Rule(
        holds=lambda spec: (
            spec.fallback.on_cloud_loss is not kinds.OnCloudLoss.DRAFT_ONLY
            or spec.strategy.type is kinds.StrategyType.HAT
        ),
        cel="self.fallback.onCloudLoss != 'DraftOnly' || self.strategy.type == 'Hat'",
        message="fallback.onCloudLoss is DraftOnly but strategy.type is {strategy.type}, which has no drafting model: "
        "use Wait or Fail, or set type: Hat",
        field=".fallback.onCloudLoss",
    ),
)

_PLAIN_TEXT = (
    checks.Rule(
        holds=lambda spec: (
            spec.tls.mode is not kinds.TlsMode.DISABLED or spec.cloud.service.type is kinds.ServiceType.CLUSTER_IP
        ),
        cel="self.tls.mode != 'Disabled' || self.cloud.service.type == 'ClusterIP'",
        message="tls.mode is Disabled but cloud.service.type is {cloud.service.type}: the cloud would be open to "
        "anyone, in plain text: set tls.mode: Managed or CertManager, or service.type: ClusterIP",
        field=".tls.mode",
    ),
    checks.Rule(
        holds=lambda spec: spec.tls.mode is not kinds.TlsMode.DISABLED or not _elsewhere(spec),
        cel=f"self.tls.mode != 'Disabled' || !has(self.devicePools) || size({_CEL_ELSEWHERE}) == 0",
        message="tls.mode is Disabled but pool {pool} lives in another cluster: the cloud would be open to anyone, in "
        "plain text: set tls.mode: Managed or CertManager",
        field=".tls.mode",
        values=(checks.Value("pool", lambda spec: _elsewhere(spec)[0], f"{_CEL_ELSEWHERE}[0].name"),),
    ),
)

TABLE: dict[type[pydantic.BaseModel], tuple[checks.Rule, ...]] = {
    spec_module.TopologySpec: _SPEC + _PLAIN_TEXT,
    strategy.StrategySpec: _STRATEGY,
    strategy.Chunking: _CHUNKING,
    strategy.Pacing: _PACING,
    cloud.CloudSpec: _CLOUD,
    cloud.Scaling: _SCALING,
    cloud.Engine: _ENGINE,
    devices.DeviceApi: _DEVICE_API,
    operations.Tls: _TLS,
    operations.IssuerRef: _ISSUER,
    pod.PodResources: resource_rules.RESOURCES,
}


def of(model: type[pydantic.BaseModel]) -> list[checks.Rule]:
    """The rules of a group, those of its base classes included."""
    return [rule for each in model.__mro__ if each in TABLE for rule in TABLE[each]]


def problems(spec: spec_module.TopologySpec) -> list[errors.Problem]:
    """All problems of a spec: of each group before those of the groups in it, in document order."""
    return list(_problems(spec, "spec"))


def _problems(value: object, path: str) -> Iterator[errors.Problem]:
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _problems(item, f"{path}[{index}]")
    if not isinstance(value, pydantic.BaseModel):
        return
    for rule in of(type(value)):
        if not rule.holds(value):
            yield errors.Problem(path + rule.field, rule.text(value))
    for name, info in type(value).model_fields.items():
        yield from _problems(getattr(value, name), f"{path}.{info.alias or name}")
