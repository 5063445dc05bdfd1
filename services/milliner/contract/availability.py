"""What this version does not do although the schema knows it: refused with a problem, or told as a note. Pure."""

from __future__ import annotations

from milliner.contract import errors, idle_options, kinds, topology
from milliner.contract import spec as spec_module


def nobody_answers(spec: spec_module.TopologySpec, *, needs_cloud: bool) -> list[errors.Problem]:
    """Problems of a topology that has no replica of a tier which answers need."""
    found: list[errors.Problem] = []
    if spec.cloud.desired_replicas < 1 and needs_cloud:
        found.append(
            errors.Problem(
                "spec.cloud.replicas", "cloud.replicas is 0: at least one is needed to answer, use 1 or more"
            )
        )
    if not any(pool.local_replicas for pool in spec.device_pools):
        found.append(
            errors.Problem("spec.devicePools", "devicePools have 0 replicas in all: at least one device is needed")
        )
    return found


def refused(wanted: topology.InferenceTopology, *, may_rest: bool = False) -> list[errors.Problem]:
    """Problems of what this version's roles do not do; `may_rest`: a cloud without replicas is taken, because it can
    be scaled up while the topology is there."""
    spec = wanted.spec
    found = nobody_answers(spec, needs_cloud=not may_rest)
    if spec.fallback.on_cloud_loss is kinds.OnCloudLoss.DRAFT_ONLY:
        found.append(
            errors.Problem(
                "spec.fallback.onCloudLoss",
                "fallback.onCloudLoss DraftOnly is not available in this version: use Wait or Fail",
            )
        )
    return found


def notes(wanted: topology.InferenceTopology) -> list[str]:
    """Fields that are set but have no effect where there is no cluster, one sentence each."""
    return [
        f"{field} has no effect here: {why}" for field, (is_set, why) in _without_effect(wanted.spec).items() if is_set
    ]


def _without_effect(spec: spec_module.TopologySpec) -> dict[str, tuple[bool, str]]:
    """Field: whether it is set, and why nothing follows from it."""
    tier, pools = spec.cloud, spec.device_pools
    cluster = "it is for a cluster"
    external, options = tier.engine.external is not None, spec.strategy.pd_device
    limits = tier.engine.model_fields_set - {"type", "external"}
    return {
        **idle_options.of(spec),
        "strategy.pdDevice.scheduler": (
            external and options is not None and "scheduler" in options.model_fields_set,
            "an external engine has an order of its own",
        ),
        "cloud.engine": (external and bool(limits), "an external engine has limits of its own"),
        "cloud.emulation": (external and tier.emulation is not None, "an external engine takes as long as it takes"),
        "model.credentialsSecretRef": (spec.model.credentials_secret_ref is not None, cluster),
        "cloud.scaling": (tier.scaling is not None, "minReplicas replicas run all the time"),
        "cloud.accelerator": (
            tier.accelerator is not None,
            "roles compute on CUDA where torch finds it; only the default of engine.kvCacheMebibytes follows from it",
        ),
        "cloud.service": ("service" in tier.model_fields_set, cluster),
        "cloud.rollout": ("rollout" in tier.model_fields_set, cluster),
        "cloud.pod": ("pod" in tier.model_fields_set, cluster),
        "devicePools[].nodeSelector": (any(pool.node_selector for pool in pools), cluster),
        "devicePools[].clusterSecretRef": (any(pool.cluster_secret_ref is not None for pool in pools), cluster),
        "devicePools[].pod": (any("pod" in pool.model_fields_set for pool in pools), cluster),
        "devicePools[].rollout": (any("rollout" in pool.model_fields_set for pool in pools), cluster),
        "devicePools[].drainSeconds": (any("drain_seconds" in pool.model_fields_set for pool in pools), cluster),
        "devicePools[].api.exposure": (
            any("exposure" in pool.api.model_fields_set for pool in pools),
            "the API listens on loopback only",
        ),
        "devicePools[].api.keysSecretRef": (
            any(pool.api.keys_secret_ref is not None for pool in pools),
            "the API asks for no key, on loopback only",
        ),
        "objectives": (
            "objectives" in spec.model_fields_set and spec.strategy.type is not kinds.StrategyType.PD_DEVICE,
            "only PDDevice aims at them",
        ),
        "tls": (
            spec.tls.mode is not kinds.TlsMode.DISABLED and "tls" in spec.model_fields_set,
            "processes of one machine talk over loopback, in plain text",
        ),
        "tracing": (
            "tracing" in spec.model_fields_set,
            "nothing is exported; see a request's trace with milliner generate --trace",
        ),
    }
