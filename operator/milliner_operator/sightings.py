"""Looks at a few pods: why roles are not ready, and what devices say of their last round trip.

Calls and bytes depend on the number of roles, never on that of pods: lists are limited, and at most `_PROBED_PODS` of
a pool are asked, through the API server, so that pods of any cluster can be.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
from collections.abc import Mapping, Sequence

from milliner.contract import names
from milliner_operator import errors, mounts, pods, probes, refusals, workloads
from milliner_operator.api import Api
from milliner_operator.children import common
from milliner_operator.conditions import Reason
from milliner_operator.kinds import DAEMON_SET, POD
from milliner_operator.observed import ClusterRef, Manifest, Probe, Ref, Sightings, Trouble
from milliner_operator.plan import RolePlan
from milliner_operator.seen import Seen

_PROBED_PODS = 3
_LISTED_PODS = 50  # arbitrary: enough to find a cause, few enough to cost the same for any pool
# How many pods are looked through for ready ones, list by list: a few will do while most devices are online.
_SEARCHED_PODS = (2 * _PROBED_PODS, 500)
_PROBE_S = 5.0


async def look(
    seen: Seen, *, local: Api, remote: Mapping[ClusterRef, Api], namespace: str, now: datetime.datetime
) -> Sightings:
    """Troubles of the roles that are not ready and the probe of each pool that has devices."""
    found = _Found()
    async with asyncio.TaskGroup() as group:
        for role in seen.plan.roles:
            client = local if role.cluster is None else remote.get(role.cluster)
            if client is not None:
                group.create_task(_look_at(seen, role, client, namespace, found, now=now))
    return Sightings(troubles=found.troubles, probes=found.probes, stuck=frozenset(found.stuck))


@dataclasses.dataclass(slots=True)
class _Found:
    """What the roles' looks fill in."""

    troubles: dict[Ref, Trouble] = dataclasses.field(default_factory=dict)
    probes: dict[str, Probe] = dataclasses.field(default_factory=dict)
    stuck: set[Ref] = dataclasses.field(default_factory=set)


async def _look_at(
    seen: Seen, role: RolePlan, client: Api, namespace: str, found: _Found, *, now: datetime.datetime
) -> None:
    progress = seen.progress(role)
    revision = role.revision or progress.revision
    labels = common.role_selector(seen.topology, role=role.role, pool=role.pool, revision=revision)
    try:
        if not progress.all_ready and progress.revision:
            listed = await client.list(
                POD, namespace, labels=labels, fields="status.phase!=Running", limit=_LISTED_PODS
            )
            if pods.trouble(listed) is None:
                listed = await _running(client, namespace, labels, limit=_LISTED_PODS)
            trouble = pods.trouble(listed)
            if role.workload[0] == DAEMON_SET.kind and _cloud_has_served(seen, now, within_s=role.progress_s):
                found.stuck |= {
                    role.workload for each in listed if pods.is_stuck(each, now=now, within_s=role.progress_s)
                }
            if trouble is None and role.workload[0] == DAEMON_SET.kind and progress.total == 0:
                trouble = await refusals.trouble(client, namespace, role.workload)
            if (trouble is None or _only_starting(trouble)) and role.pool is not None and not progress.complete:
                trouble = await _offline(seen, role, client, namespace, revision, now=now) or trouble
            if trouble is not None and _only_starting(trouble):
                trouble = pods.untaken(listed, now=now) or trouble
            if trouble is not None and _only_starting(trouble):
                trouble = await mounts.trouble(client, namespace, listed) or trouble
            if trouble is not None and not _only_starting(trouble):
                found.troubles[role.workload] = trouble
        if role.pool is not None and (asked := await _asked(seen, role, client, namespace, labels)):
            found.probes[role.pool] = await _probe(client, namespace, asked)
    except errors.ApiError as error:
        if role.pool is not None:
            found.probes.setdefault(role.pool, Probe(ok=False, reason=f"pods cannot be listed: {error.message}"))


def _cloud_has_served(seen: Seen, now: datetime.datetime, *, within_s: float) -> bool:
    """Whether the cloud has been there long enough for devices to get ready: they do by a round trip through it."""
    since = [workloads.serves_since(seen.objects.get(stage.workload)) for stage in seen.plan.stages]
    return all(each is not None and now - each >= datetime.timedelta(seconds=within_s) for each in since)


async def _asked(seen: Seen, role: RolePlan, client: Api, namespace: str, labels: str) -> Sequence[Manifest]:
    """The pods that are asked for their last round trip: ready ones, or where only devices know of the cloud any that
    run."""
    if seen.progress(role).ready > 0 and (ready := await _ready(client, namespace, labels)):
        return ready[:_PROBED_PODS]
    return await _running(client, namespace, labels, limit=_PROBED_PODS) if seen.plan.external else ()


async def _running(client: Api, namespace: str, labels: str, *, limit: int) -> Sequence[Manifest]:
    return await client.list(POD, namespace, labels=labels, fields="status.phase=Running", limit=limit)


async def _ready(client: Api, namespace: str, labels: str) -> Sequence[Manifest]:
    """Some ready pods; no selector knows of readiness, and those of devices that are offline still count as running."""
    for limit in _SEARCHED_PODS:
        listed = await _running(client, namespace, labels, limit=limit)
        ready = [each for each in listed if pods.is_ready(each)]
        if ready or len(listed) < limit:
            return ready
    return ()


async def _offline(
    seen: Seen, role: RolePlan, client: Api, namespace: str, revision: str, *, now: datetime.datetime
) -> Trouble | None:
    """The device that a rollout waits for: what it runs is of another revision than the rest."""
    labels = common.role_selector(seen.topology, role=role.role, pool=role.pool)
    labels += f",{names.LABEL_REVISION}!={revision}"
    return pods.unreachable(await client.list(POD, namespace, labels=labels, limit=_LISTED_PODS), now=now)


def _only_starting(trouble: Trouble) -> bool:
    """Whether nothing more is known than the workload's own counts say."""
    return trouble.reason is Reason.PODS_NOT_READY


async def _probe(client: Api, namespace: str, ready: Sequence[Manifest]) -> Probe:
    """The first good answer of a few devices, else the first bad one."""
    names = [each["metadata"]["name"] for each in ready]
    answers = await asyncio.gather(*(_ask(client, namespace, name) for name in names))
    return next((each for each in answers if each.ok), answers[0])


async def _ask(client: Api, namespace: str, pod: str) -> Probe:
    try:
        text = await client.proxy_pod(namespace, pod, port=common.HEALTH_PORT, path="/probe", timeout_s=_PROBE_S)
    except errors.ApiError as error:
        return Probe(ok=False, reason=f"pod {pod}: cannot be asked: {error.message[:200]}")
    return probes.parse(text, pod=pod)
