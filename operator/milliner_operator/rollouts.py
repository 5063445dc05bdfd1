"""How many devices a rollout over a DaemonSet may take at a time: `maxUnavailable` beside those that are away.

The DaemonSet's controller counts each pod that is not available against `maxUnavailable`, and that of a device that is
offline is not until it is back: its pod can be deleted, but nobody is there to end it. In a pool of ten devices with
the default share one such device would keep all others from the new revision. So while a rollout is under way the
planned number is raised by as many pods as are away for no fault of the revision. Before and after it is as planned.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence

from milliner.contract import names
from milliner_operator import errors, pods, workloads
from milliner_operator.api import Api
from milliner_operator.children import common
from milliner_operator.kinds import DAEMON_SET, POD
from milliner_operator.observed import ClusterRef, Manifest, Ref, RemoteCluster
from milliner_operator.plan import Plan, RolePlan

_LISTED_PODS = 50  # arbitrary: a look costs the same for any pool; in a larger one its share is more than a few anyway
_WHOLE = 100  # percent

Most = int | str  # a number of pods, or a share such as "10%"


async def adjusted(
    plan: Plan,
    *,
    topology: str,
    namespace: str,
    local: Api,
    remote: Mapping[ClusterRef, Api],
    objects: Mapping[Ref, Manifest],
    clusters: Mapping[ClusterRef, RemoteCluster],
    now: datetime.datetime,
) -> Plan:
    """The plan with what its rollouts may take now; `objects` are live, those of other clusters are in `clusters`."""
    numbers: dict[ClusterRef | None, dict[Ref, Most]] = {}
    for role in plan.pools:
        client = local if role.cluster is None else remote.get(role.cluster)
        there = objects if role.cluster is None else clusters.get(role.cluster, RemoteCluster()).objects
        planned = plan.local if role.cluster is None else plan.remote.get(role.cluster, ())
        live, wanted = there.get(role.workload), _found(planned, role.workload)
        if client is None or live is None or wanted is None or not _rolls_out(live, role):
            continue
        desired = workloads.progress(live).desired
        labels = common.role_selector(topology, role=role.role, pool=role.pool)
        if desired > _LISTED_PODS:
            labels += f",{names.LABEL_REVISION}!={role.revision}"
        try:
            listed = await client.list(POD, namespace, labels=labels, limit=_LISTED_PODS)
        except errors.ApiError:
            number = _most(live)  # as it is, until more is known
        else:
            number = raised(_most(wanted), desired=desired, away=sum(pods.is_away(each, now=now) for each in listed))
        numbers.setdefault(role.cluster, {})[role.workload] = number
    if not numbers:
        return plan
    return dataclasses.replace(
        plan,
        local=_with(plan.local, numbers.get(None, {})),
        remote={ref: _with(manifests, numbers.get(ref, {})) for ref, manifests in plan.remote.items()},
    )


def raised(most: Most, *, desired: int, away: int) -> Most:
    """`most` of `desired` pods, shares rounded up as the controller does, and those that are `away` besides."""
    if away == 0:
        return most
    base = most if isinstance(most, int) else math.ceil(desired * int(most.removesuffix("%")) / _WHOLE)
    return max(base, 1) + away


def _rolls_out(live: Manifest, role: RolePlan) -> bool:
    """Whether pods of this DaemonSet are being replaced, or will be as soon as the plan is brought about."""
    if role.workload[0] != DAEMON_SET.kind or live["kind"] != DAEMON_SET.kind:
        return False
    progress = workloads.progress(live)
    return progress.revision != role.revision or not progress.complete


def _found(manifests: Sequence[Manifest], ref: Ref) -> Manifest | None:
    return next((each for each in manifests if (each["kind"], each["metadata"]["name"]) == ref), None)


def _most(workload: Manifest) -> Most:
    found: Most = workload["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"]
    return found


def _with(manifests: Sequence[Manifest], numbers: Mapping[Ref, Most]) -> tuple[Manifest, ...]:
    return tuple(_changed(each, numbers.get((each["kind"], each["metadata"]["name"]))) for each in manifests)


def _changed(workload: Manifest, number: Most | None) -> Manifest:
    if number is None:
        return workload
    strategy = workload["spec"]["updateStrategy"]
    rolling = strategy["rollingUpdate"] | {"maxUnavailable": number}
    return workload | {"spec": workload["spec"] | {"updateStrategy": strategy | {"rollingUpdate": rolling}}}
