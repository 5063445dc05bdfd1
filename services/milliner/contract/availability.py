"""What this version does not do although the schema knows it: refused with a problem, or told as a note. Pure."""

from __future__ import annotations

from milliner.contract import errors, kinds, topology


def unavailable(kind: kinds.StrategyType) -> errors.Problem:
    """The problem of a strategy that this version does not have."""
    return errors.Problem(
        "spec.strategy.type", f"strategy.type {kind.value} is not available in this version: use Hat or UShape"
    )


def refused(wanted: topology.InferenceTopology) -> list[errors.Problem]:
    """Problems of what this version's roles do not do."""
    spec = wanted.spec
    found: list[errors.Problem] = []
    if spec.cloud.pipeline_stages > 1:
        found.append(
            errors.Problem(
                "spec.cloud.pipelineStages",
                f"cloud.pipelineStages is {spec.cloud.pipeline_stages}, this version has one stage per replica: use 1",
            )
        )
    if spec.cloud.desired_replicas < 1:
        found.append(
            errors.Problem(
                "spec.cloud.replicas", "cloud.replicas is 0: at least one is needed to answer, use 1 or more"
            )
        )
    if not any(pool.local_replicas for pool in spec.device_pools):
        found.append(
            errors.Problem("spec.devicePools", "devicePools have 0 replicas in all: at least one device is needed")
        )
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
    spec = wanted.spec
    told: list[str] = []
    if spec.tracing.otlp_endpoint is not None:
        told.append("tracing.otlpEndpoint has no effect here: see a request's trace with milliner generate --trace")
    if any(pool.api.keys_secret_ref is not None for pool in spec.device_pools):
        told.append("devicePools[].api.keysSecretRef has no effect here: the API asks for no key, on loopback only")
    cluster_only = {
        "cloud.pod": "pod" in spec.cloud.model_fields_set,
        "cloud.service": "service" in spec.cloud.model_fields_set,
        "cloud.rollout": "rollout" in spec.cloud.model_fields_set,
        "cloud.scaling": spec.cloud.scaling is not None,
        "model.credentialsSecretRef": spec.model.credentials_secret_ref is not None,
        "devicePools[].nodeSelector": any(pool.node_selector for pool in spec.device_pools),
        "devicePools[].clusterSecretRef": any(pool.cluster_secret_ref is not None for pool in spec.device_pools),
        "devicePools[].pod": any("pod" in pool.model_fields_set for pool in spec.device_pools),
    }
    told += [f"{field} has no effect here: it is for a cluster" for field, is_set in cluster_only.items() if is_set]
    return told
