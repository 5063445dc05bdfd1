"""A topology that is being deleted and has children in other clusters: they are cleaned up before its finalizer goes.

While one of those clusters is silent the topology stays and says so, but what it has in its own cluster goes at once:
accelerators are not held for a cluster that may never come back.
"""

from __future__ import annotations

from collections.abc import Mapping

from milliner_operator import executor, world
from milliner_operator.api import Api
from milliner_operator.observed import Manifest, Ref
from milliner_operator.remote import Clusters


async def clean_up(client: Api, clusters: Clusters, document: Manifest, objects: Mapping[Ref, Manifest]) -> list[str]:
    """One attempt; returns what kept it from deleting all in other clusters. Raises `ApiError` of the own one."""
    metadata = document["metadata"]
    namespace, name, uid = metadata["namespace"], metadata["name"], metadata["uid"]
    # both: the list may have gone before the topology, as in a namespace's deletion
    refs = {*world.recorded_clusters(name, objects), *world.clusters_in(document)}
    problems = await clusters.clean_up(namespace, refs, topology=name, uid=uid)
    if problems:
        live = {ref: each for ref, each in objects.items() if ref != world.clusters_ref(name)}
        done = await executor.execute(client, namespace=namespace, uid=uid, wanted=(), live=live, complete=True)
        problems += (each.message for each in done.troubles.values())
    return problems
