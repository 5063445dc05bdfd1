"""What a pass is to bring about: the plan of the topology, or while it has none that of the last spec that had one.

Reads the world by way of `world` and `remote`; decides nothing itself that `planner` or `acceptance` could.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

from milliner.contract import errors, topology
from milliner_operator import acceptance, planner, rollouts, world
from milliner_operator.api import Api
from milliner_operator.children import common
from milliner_operator.observed import ClusterRef, Manifest, Ref, RemoteCluster
from milliner_operator.plan import Plan
from milliner_operator.remote import Clusters


@dataclasses.dataclass(frozen=True, slots=True)
class Outlook:
    """The plan, what was seen of other clusters, and clients of those that answer."""

    plan: Plan
    clusters: Mapping[ClusterRef, RemoteCluster]
    clients: Mapping[ClusterRef, Api]


async def look(
    client: Api,
    clusters: Clusters,
    document: Manifest,
    *,
    scope: common.Scope,
    objects: Mapping[Ref, Manifest],
    now: datetime.datetime,
) -> Outlook:
    """The outlook of a topology; what is wrong with its spec is in the plan, never raised."""
    accepted = acceptance.stored(document, objects, uid=scope.uid)
    wanted: topology.InferenceTopology | None = None
    try:
        wanted = topology.parse(document)
    except errors.SpecInvalid as error:
        plan = planner.refusal(error)
    specs = [each for each in (wanted, accepted.wanted if accepted else None) if each is not None]
    named = {ref for each in specs for ref in world.named_clusters(each)}
    refs = {*named, *world.recorded_clusters(scope.topology, objects)}
    seen, clients = await clusters.look(scope.namespace, refs, named=named, topology=scope.topology, uid=scope.uid)
    if wanted is not None:
        there = await world.look(client, wanted, scope=scope, objects=objects, clusters=seen, now=now)
        plan = planner.plan_topology(wanted, scope=scope, world=there, now=now)
    if accepted is not None and not plan.planned:
        before = accepted.objects(objects, scope=scope)
        there = await world.look(client, accepted.wanted, scope=scope, objects=before, clusters=seen, now=now)
        standing = planner.plan_topology(accepted.wanted, scope=scope, world=there, now=now)
        switches = wanted is not None and wanted.spec.tls != accepted.wanted.spec.tls
        plan = acceptance.meanwhile(plan, standing, tls_changes=switches)
    plan = await rollouts.adjusted(
        plan,
        topology=scope.topology,
        namespace=scope.namespace,
        local=client,
        remote=clients,
        objects=objects,
        clusters=seen,
        now=now,
    )
    return Outlook(plan, seen, clients)
