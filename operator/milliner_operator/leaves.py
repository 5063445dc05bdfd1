"""The leaf conditions of a status, each from what was seen of its part. Pure; `status` puts them together."""

from __future__ import annotations

from collections.abc import Iterator

from milliner.contract import names
from milliner_operator.children import common
from milliner_operator.conditions import LEAVES, Condition, Reason, Type
from milliner_operator.observed import Manifest, Trouble, condition
from milliner_operator.plan import RolePlan
from milliner_operator.seen import Seen
from milliner_operator.workloads import Progress

EXTERNAL_FIELD = "cloud.engine.external"  # begins the field of what devices say about that server


def of(seen: Seen) -> list[Condition]:
    """All leaves in their order; TLSReady only where TLS is on."""
    found = {each.type: each for each in seen.plan.conditions}
    found |= {each.type: each for each in _applied(seen)}
    if (mismatch := _digest_mismatch(seen)) is not None:
        found[Type.MODEL_READY] = mismatch
    found.setdefault(
        Type.MODEL_READY, Condition(Type.MODEL_READY, None, Reason.RECONCILING, "awaits a spec that is valid")
    )
    found.setdefault(Type.CLOUD_READY, _external(seen) if seen.plan.external else _cloud(seen))
    found[Type.DEVICES_READY] = _devices(seen)
    found[Type.STREAM_READY] = _stream(seen)
    return [found[kind] for kind in LEAVES if kind in found]


def scaling(seen: Seen) -> Condition | None:
    """ScalingReady where an autoscaler is wanted or there; of several pipeline stages the first that fails decides."""
    names_of_stages = [role.workload[1] for role in seen.plan.stages] or [names.cloud_name(seen.topology)]
    autoscalers = [seen.objects.get(("HorizontalPodAutoscaler", name)) for name in names_of_stages]
    found = [_scaling(each) for each in autoscalers if each is not None]
    failing = [each for each in found if each.status is False] or [each for each in found if each.status is None]
    return next(iter([*failing, *found]), None)


def _scaling(autoscaler: Manifest) -> Condition:
    active = condition(autoscaler, "ScalingActive")
    message = str(active.get("message") or "")
    if active.get("status") == "True" or active.get("reason") == "ScalingDisabled":
        return Condition(Type.SCALING_READY, True, Reason.METRIC_AVAILABLE, message)
    name = autoscaler["metadata"]["name"]
    if not active:
        return Condition(Type.SCALING_READY, None, Reason.RECONCILING, f"{name}: the autoscaler has not looked yet")
    return Condition(Type.SCALING_READY, False, Reason.METRIC_MISSING, f"{name}: {message}")


def _applied(seen: Seen) -> Iterator[Condition]:
    """What stood in the way of applying the children that belong to no tier."""
    trouble = seen.troubles.get(common.ROLE_INSPECT) or seen.troubles.get(common.ROLE_SHARED)
    if trouble is not None:
        yield Condition(Type.MODEL_READY, False, trouble.reason, trouble.message)
    trouble = seen.troubles.get(common.ROLE_TLS)
    if trouble is not None:
        yield Condition(Type.TLS_READY, False, trouble.reason, trouble.message)


def _digest_mismatch(seen: Seen) -> Condition | None:
    common_digest = seen.plan.facts.digest if seen.plan.facts else None
    own = {role.pool: role.model_digest for role in seen.plan.pools if role.model_digest}
    for pool, probe in seen.sightings.probes.items():
        agreed = own.get(pool, common_digest)
        if agreed and probe.ok and probe.model_digest and probe.model_digest != agreed:
            message = f"pool {pool} has a model with digest {probe.model_digest}, the source has {agreed}"
            return Condition(Type.MODEL_READY, False, Reason.MODEL_DIGEST_MISMATCH, message)
    return None


def _cloud(seen: Seen) -> Condition:
    """The last pipeline stage that is not ready decides, because those before it wait for it; else all are."""
    stages = seen.plan.stages
    if not stages:
        return Condition(Type.CLOUD_READY, None, Reason.RECONCILING, "not planned yet")
    found = [_stage(seen, role) for role in stages]
    return next((each for each in reversed(found) if each.status is not True), found[0])


def _external(seen: Seen) -> Condition:
    """The cloud as devices see it where somebody else's server is it: one that it gives tokens is enough."""
    probes = list(seen.sightings.probes.values())
    if any(each.ok for each in probes):
        return Condition(Type.CLOUD_READY, True, Reason.EXTERNAL_ENGINE_ANSWERS, seen.plan.endpoint)
    told = [each for each in probes if each.field.startswith(EXTERNAL_FIELD)]
    if not told:
        return Condition(Type.CLOUD_READY, None, Reason.RECONCILING, "no device has asked the server yet")
    other_model = next((each for each in told if each.field == f"{EXTERNAL_FIELD}.model"), None)
    if other_model is not None:
        return Condition(Type.CLOUD_READY, False, Reason.EXTERNAL_MODEL_MISMATCH, other_model.reason)
    return Condition(Type.CLOUD_READY, False, Reason.EXTERNAL_ENGINE_UNREACHABLE, told[0].reason)


def _stage(seen: Seen, role: RolePlan) -> Condition:
    trouble = seen.troubles.get(role.role) or seen.sightings.troubles.get(role.workload)
    prefix = "" if role.role == names.ROLE_CLOUD else f"{role.workload[1]}: "
    progress = seen.progress(role)
    if progress.revision and progress.desired == 0 and trouble is None:
        message = f"{role.workload[1]} is scaled to 0 replicas: devices get nothing from it until it is scaled up"
        return Condition(Type.CLOUD_READY, False, Reason.SCALED_TO_ZERO, message)
    return _tier(Type.CLOUD_READY, role, progress, trouble, prefix=prefix)


def _devices(seen: Seen) -> Condition:
    """The first pool that is not ready decides; else all are."""
    pools = seen.plan.pools
    if not pools:
        return Condition(Type.DEVICES_READY, None, Reason.RECONCILING, "not planned yet")
    found = [_pool(seen, role) for role in pools]
    failing = [each for each in found if each.status is False] or [each for each in found if each.status is None]
    if failing:
        return failing[0]
    progress = [seen.progress(role) for role in pools]
    counts = f"{sum(each.ready for each in progress)} of {sum(each.desired for each in progress)} ready"
    return Condition(Type.DEVICES_READY, True, Reason.ALL_PODS_READY, counts)


def _pool(seen: Seen, role: RolePlan) -> Condition:
    if role.blocked is not None:
        return role.blocked
    prefix = f"pool {role.pool}: "
    if error := seen.unreachable(role):
        return Condition(Type.DEVICES_READY, False, Reason.DEVICE_UNREACHABLE, f"{prefix}{error}")
    trouble = seen.troubles.get(names.ROLE_DEVICE) or seen.sightings.troubles.get(role.workload)
    progress = seen.progress(role)
    if role.workload[0] == "DaemonSet" and progress.observed and progress.desired == 0:
        message = f"{prefix}no node matches its nodeSelector, or their taints are not tolerated"
        return Condition(Type.DEVICES_READY, False, Reason.NO_MATCHING_NODES, message)
    return _tier(Type.DEVICES_READY, role, progress, trouble, prefix=prefix)


def _tier(kind: Type, role: RolePlan, progress: Progress, trouble: Trouble | None, *, prefix: str) -> Condition:
    counts = f"{prefix}{progress.ready} of {progress.desired} ready, {progress.updated} in the current revision"
    if trouble is not None:
        return Condition(kind, False, trouble.reason, f"{prefix}{trouble.message}")
    if not progress.revision:
        return Condition(kind, None, Reason.RECONCILING, f"{prefix}{role.workload[0]} {role.workload[1]} is awaited")
    if progress.refused:
        return Condition(kind, False, Reason.POD_REFUSED, f"{prefix}{progress.refused}")
    if role.revision and progress.revision != role.revision:
        return Condition(kind, False, Reason.UPDATING, counts)
    if progress.all_ready:
        return Condition(kind, True, Reason.ALL_PODS_READY, f"{prefix}{progress.ready} of {progress.desired} ready")
    if progress.deadline_exceeded:
        return Condition(kind, False, Reason.PROGRESS_DEADLINE_EXCEEDED, counts)
    if progress.only_scales:
        change = "up" if progress.desired > progress.total else "down" if progress.desired < progress.total else ""
        told = f"; scaling {change}" if change else ""
        return Condition(
            kind, False, Reason.PODS_NOT_READY, f"{prefix}{progress.ready} of {progress.desired} ready{told}"
        )
    if not progress.complete:
        return Condition(kind, False, Reason.UPDATING, counts)
    return Condition(kind, False, Reason.PODS_NOT_READY, counts)


def _stream(seen: Seen) -> Condition:
    """True when each pool that has devices made a round trip lately; Unknown where a pool's cluster does not answer."""
    found = [
        _round_trip(seen, role) for role in seen.plan.pools if seen.unreachable(role) or seen.progress(role).desired
    ]
    if not found:
        return Condition(Type.STREAM_READY, None, Reason.RECONCILING, "no device is there yet")
    failing = [each for each in found if each.status is False] or [each for each in found if each.status is None]
    return next(iter([*failing, *found]))


def _round_trip(seen: Seen, role: RolePlan) -> Condition:
    """StreamReady as far as one pool is concerned."""
    if error := seen.unreachable(role):
        return Condition(Type.STREAM_READY, None, Reason.DEVICE_UNREACHABLE, f"pool {role.pool}: {error}")
    assert role.pool is not None
    probe = seen.sightings.probes.get(role.pool)
    if probe is None:
        message = f"pool {role.pool}: no device of the current revision is ready to be asked"
        return Condition(Type.STREAM_READY, False, Reason.STREAM_PROBE_FAILED, message)
    if not probe.ok:
        return Condition(Type.STREAM_READY, False, Reason.STREAM_PROBE_FAILED, f"pool {role.pool}: {probe.reason}")
    return Condition(Type.STREAM_READY, True, Reason.STREAM_PROBE_SUCCEEDED, "")
