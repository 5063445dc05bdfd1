"""The status document of a topology: from plan, live workloads and sightings. Pure; says nothing that was not seen.

`Ready` follows from the leaves in `conditions.LEAVES`: False when one is False, else Unknown when one is Unknown, with
reason and message of the first such. Nothing here is read back to decide anything but `lastTransitionTime` and
whether the probe's figures moved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic

from milliner.contract import names
from milliner.contract import status as schema
from milliner_operator import conditions, leaves
from milliner_operator.children import common
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import Probe
from milliner_operator.plan import Plan, RolePlan
from milliner_operator.seen import Seen
from milliner_operator.workloads import Progress

_PROBE_MOVES = 0.1  # share by which a figure must differ to be written: a status that flickers wakes every watcher
_NO_PODS = "-"
_STALLING = (
    Reason.SPEC_INVALID,
    Reason.CHILD_NOT_OWNED,
    Reason.MODEL_DIGEST_MISMATCH,
    Reason.PROGRESS_DEADLINE_EXCEEDED,
)


def first(generation: int, *, now: str) -> dict[str, Any]:
    """The very first status: without Ready, waiting programs would take the topology for ready."""
    starting = Condition(Type.READY, None, Reason.RECONCILING, "seen by the operator")
    return {
        "observedGeneration": generation,
        "conditions": conditions.merged([starting], before=(), generation=generation, now=now),
    }


def leaving(generation: int, *, problems: Iterable[str], before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status of a topology whose deletion waits for other clusters; equal to `before` when nothing changed."""
    pending = _cleanup_pending(problems)
    assert pending is not None
    found = [dataclasses.replace(pending, type=Type.READY, status=False), pending]
    return {
        "observedGeneration": generation,
        "conditions": conditions.merged(found, before=before.get("conditions") or (), generation=generation, now=now),
    }


def ending(generation: int, *, finalizers: Iterable[str], before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status of a topology that is deleted but for finalizers of others: its children go meanwhile, as in a
    deletion in the foreground, and nobody looks after them. Equal to `before` when nothing changed."""
    message = f"it is being deleted, and waits for {', '.join(finalizers)}"
    found = [Condition(Type.READY, False, Reason.RECONCILING, message)]
    return {
        "observedGeneration": generation,
        "conditions": conditions.merged(found, before=before.get("conditions") or (), generation=generation, now=now),
    }


def build(seen: Seen, *, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status document; equal to `before` when nothing changed."""
    found = all_conditions(seen)
    plan, cloud = seen.plan, seen.plan.cloud
    counts = seen.progress(cloud) if cloud is not None else Progress()
    has_status = plan.cloud_pods or plan.external
    status = schema.TopologyStatus(
        observed_generation=seen.generation,
        summary=schema.Summary(
            cloud=f"{counts.ready}/{counts.desired}" if plan.cloud_pods else _NO_PODS, devices=_devices_summary(seen)
        ),
        model=_model(plan),
        cloud=_cloud(plan, counts) if has_status else None,
        device_pools=tuple(_pool(seen, role) for role in plan.pools),
        probe=_probe(seen.sightings.probes.values(), before=before.get("probe") or {}, now=now),
        selector=common.role_selector(seen.topology, role=names.ROLE_CLOUD),
    )
    document = status.document()
    document["conditions"] = conditions.merged(
        found, before=before.get("conditions") or (), generation=seen.generation, now=now
    )
    return document


def all_conditions(seen: Seen) -> list[Condition]:
    """Ready first, then its leaves, then what stands beside them."""
    found = leaves.of(seen)
    ready = _ready(found)
    beside = [_progressing(seen), _degraded(seen, ready)]
    if (scaling := leaves.scaling(seen)) is not None:
        beside.append(scaling)
    if (pending := _cleanup_pending(seen.left_behind)) is not None:
        beside.append(pending)
    stalled = _stalled([*found, *beside])
    if stalled is not None:
        beside.append(stalled)
    elif ready.status is None or beside[0].status is True:
        beside.append(Condition(Type.RECONCILING, True, _reconciling_reason(ready, beside[0]), ready.message))
    return [ready, *found, *beside]


def _ready(found: Iterable[Condition]) -> Condition:
    failing = [each for each in found if each.status is False] or [each for each in found if each.status is None]
    if not failing:
        return Condition(Type.READY, True, Reason.ALL_ROLES_READY, "all roles serve")
    worst = failing[0]
    return Condition(Type.READY, worst.status, worst.reason, worst.message)


def _progressing(seen: Seen) -> Condition:
    away = [error for role in seen.plan.roles if (error := seen.unreachable(role))]
    visible = (role for role in seen.plan.roles if role.blocked is None and not seen.unreachable(role))
    rollouts = [(role, seen.progress(role)) for role in visible]
    for role, each in rollouts:
        if each.deadline_exceeded:
            message = f"{role.workload[1]}: no progress within the deadline"
            return Condition(Type.PROGRESSING, False, Reason.PROGRESS_DEADLINE_EXCEEDED, message)
    moving = [f"{role.workload[1]}: {each.updated} of {each.desired}" for role, each in rollouts if not each.rolled_out]
    if moving:
        return Condition(Type.PROGRESSING, True, Reason.NEW_REVISION, ", ".join(moving))
    if away:
        return Condition(Type.PROGRESSING, None, Reason.DEVICE_UNREACHABLE, away[0])
    return Condition(Type.PROGRESSING, False, Reason.ROLLOUT_COMPLETE, "")


def _degraded(seen: Seen, ready: Condition) -> Condition:
    if ready.status is True:
        return Condition(Type.DEGRADED, False, Reason.FULLY_SERVING, "")
    serves = any(each.ok for each in seen.sightings.probes.values())
    if serves:
        return Condition(Type.DEGRADED, True, Reason.PARTLY_SERVING, ready.message)
    return Condition(Type.DEGRADED, True if ready.status is False else None, ready.reason, ready.message)


def _cleanup_pending(problems: Iterable[str]) -> Condition | None:
    """Only present while something is left where it can be neither seen nor deleted."""
    if not (told := sorted(problems)):
        return None
    message = f"what was made elsewhere is not deleted yet: {'; '.join(told)}"
    return Condition(Type.CLEANUP_PENDING, True, Reason.CLEANUP_PENDING, message)


def _stalled(found: Iterable[Condition]) -> Condition | None:
    for each in found:
        if each.status is False and each.reason in _STALLING:
            return Condition(Type.STALLED, True, each.reason, each.message)
    return None


def _reconciling_reason(ready: Condition, progressing: Condition) -> Reason:
    return progressing.reason if progressing.status is True else ready.reason


def _model(plan: Plan) -> schema.ModelStatus | None:
    facts = plan.facts
    if facts is None:
        return None
    return schema.ModelStatus(
        digest=facts.digest,
        revision=facts.model_commit or None,
        layers=facts.layers,
        hidden_size=facts.hidden_size,
        split_layer=plan.split_layer,
        adapter_acceptance_percent=facts.drafter_acceptance_percent,
    )


def _cloud(plan: Plan, counts: Progress) -> schema.CloudStatus:
    return schema.CloudStatus(
        ready=counts.ready,
        desired=counts.desired,
        updated=counts.updated,
        replicas=counts.total,
        revision=plan.cloud.revision if plan.cloud and plan.cloud.revision else counts.revision,
        endpoint=plan.endpoint,
    )


def _devices_summary(seen: Seen) -> str:
    """Ready out of desired over all pools; `?` where a pool's cluster does not answer."""
    counts = [seen.progress(role) for role in seen.plan.pools if not seen.unreachable(role)]
    unknown = len(counts) < len(seen.plan.pools)
    ready = "?" if unknown and not counts else str(sum(each.ready for each in counts))
    return f"{ready}/{'?' if unknown else sum(each.desired for each in counts)}"


def _pool(seen: Seen, role: RolePlan) -> schema.DevicePoolStatus:
    """A pool's counts; without them where its cluster does not answer."""
    assert role.pool is not None
    counts, cluster = seen.progress(role), role.cluster.secret if role.cluster else ""
    if seen.unreachable(role):
        return schema.DevicePoolStatus(
            name=role.pool, revision=role.revision, cluster=cluster, model_digest=role.model_digest
        )
    return schema.DevicePoolStatus(
        name=role.pool,
        ready=counts.ready,
        desired=counts.desired,
        updated=counts.updated,
        revision=role.revision or counts.revision,
        cluster=cluster,
        model_digest=role.model_digest,
    )


def _earlier_probe(before: Mapping[str, Any]) -> schema.ProbeStatus | None:
    """The figures that the status has; None where it has none in a form that is known here."""
    try:
        return schema.ProbeStatus.model_validate(dict(before)) if before else None
    except pydantic.ValidationError:
        return None  # another version's, or somebody's own: figures that are measured anew need no past


def _probe(probes: Iterable[Probe], *, before: Mapping[str, Any], now: str) -> schema.ProbeStatus | None:
    """The figures of the slowest pool; those of `before` while they differ by less than a tenth, or no probe is ok."""
    succeeded = [each for each in probes if each.ok]
    earlier = _earlier_probe(before)
    if not succeeded:
        return earlier
    slowest = max(succeeded, key=lambda each: each.round_trip_us)
    figures = (slowest.round_trip_us, slowest.ttft_ms, slowest.tokens_per_second)
    if earlier is not None:
        old = (
            earlier.round_trip_microseconds or 0,
            earlier.time_to_first_token_milliseconds or 0,
            earlier.tokens_per_second or 0,
        )
        if all(abs(new - was) <= _PROBE_MOVES * was for new, was in zip(figures, old, strict=True)):
            return earlier
    return schema.ProbeStatus(
        round_trip_microseconds=figures[0],
        time_to_first_token_milliseconds=figures[1],
        tokens_per_second=figures[2],
        at=now,
    )
