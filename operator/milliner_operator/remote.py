"""Other clusters of device pools: a client for each kubeconfig Secret, and the cleaning up of what was made there.

No owner reference reaches across clusters, so children carry the topology's uid as a label, the ConfigMap
`<topology>-clusters` lists where there are any, and the topology has a finalizer as long as that is so.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping

from milliner.contract import names
from milliner_operator import api, errors, executor, kinds, observed
from milliner_operator.api import Api
from milliner_operator.children import common, plain
from milliner_operator.observed import ClusterRef, Manifest, Ref, RemoteCluster

FINALIZER = f"{names.GROUP}/remote-pools"
_CONNECT_S = 8.0  # arbitrary: a cluster that does not answer must not hold up the topology's own


def needs_finalizer(*, planned: bool, recorded: bool, has: bool) -> bool:
    """Whether deletion must wait for cleaning up elsewhere: from the first plan of children in another cluster until no
    pool names one and none is recorded to hold any."""
    return planned or (has and recorded)


Connect = Callable[[str], Api]  # kubeconfig text -> client; raises ValueError


class Clusters:
    """Clients of other clusters, one for each kubeconfig; a changed Secret gets a new one."""

    def __init__(self, local: Api, *, connect: Connect) -> None:
        self._local = local
        self._connect = connect
        self._clients: dict[str, Api] = {}

    async def client(self, namespace: str, ref: ClusterRef) -> Api:
        """The client of a cluster; raises `ApiError` (*expected*) saying why there is none."""
        secret = await self._local.get(kinds.SECRET, namespace, ref.secret)
        if secret is None:
            raise errors.NotFound(404, f"Secret {ref.secret} of clusterSecretRef is not there")
        text = api.decoded(secret, ref.key)
        if text is None:
            raise errors.NotFound(404, f"Secret {ref.secret} has no key {ref.key} with a kubeconfig")
        identity = hashlib.sha256(text.encode()).hexdigest()
        if identity not in self._clients:
            try:
                self._clients[identity] = self._connect(text)
            except ValueError as error:
                raise errors.Refused(400, f"Secret {ref.secret}, key {ref.key}: {error}") from None
        return self._clients[identity]

    async def look(
        self, namespace: str, refs: Iterable[ClusterRef], *, topology: str, uid: str
    ) -> tuple[dict[ClusterRef, RemoteCluster], dict[ClusterRef, Api]]:
        """What is there of a topology in each cluster, and the clients of those that answer."""
        listed = sorted(set(refs))
        found = await asyncio.gather(*(self._look_at(namespace, ref, topology=topology, uid=uid) for ref in listed))
        seen = {ref: cluster for ref, (cluster, _) in zip(listed, found, strict=True)}
        clients = {ref: client for ref, (_, client) in zip(listed, found, strict=True) if client is not None}
        return seen, clients

    async def clean_up(self, namespace: str, refs: Iterable[ClusterRef], *, topology: str, uid: str) -> None:
        """Deletes all children of a topology in other clusters; raises `ApiError` where one does not answer.

        A cluster whose Secret is gone cannot be cleaned up and is passed over: deletion must not hang for it.
        """
        for ref in refs:
            try:
                client = await self.client(namespace, ref)
            except errors.NotFound:
                continue
            objects = await _list(client, namespace, topology=topology, uid=uid)
            await executor.execute(client, namespace=namespace, uid=uid, wanted=(), live=objects, complete=True)

    async def _look_at(
        self, namespace: str, ref: ClusterRef, *, topology: str, uid: str
    ) -> tuple[RemoteCluster, Api | None]:
        try:
            async with asyncio.timeout(_CONNECT_S):
                client = await self.client(namespace, ref)
                return RemoteCluster(await _list(client, namespace, topology=topology, uid=uid)), client
        except errors.ApiError as error:
            return RemoteCluster(error=f"cluster of Secret {ref.secret}: {error.message}"), None
        except TimeoutError:
            return RemoteCluster(error=f"cluster of Secret {ref.secret}: no answer within {_CONNECT_S:.0f} s"), None


async def _list(client: Api, namespace: str, *, topology: str, uid: str) -> dict[Ref, Manifest]:
    labels = f"{common.selector(topology)},{common.LABEL_TOPOLOGY_UID}={uid}"
    lists = await asyncio.gather(*(client.list(kind, namespace, labels=labels) for kind in kinds.REMOTE_CHILDREN))
    return observed.by_ref([item for items in lists for item in items])


def listed(objects: Mapping[Ref, Manifest], *, name: str) -> list[ClusterRef]:
    """The clusters in the ConfigMap `name`: those that may hold children."""
    data = (objects.get(("ConfigMap", name)) or {}).get("data") or {}
    try:
        return [ClusterRef(str(secret), str(key)) for secret, key in json.loads(data.get(plain.CLUSTERS_KEY, "[]"))]
    except (ValueError, TypeError):
        return []  # somebody wrote into it; the next pass writes it anew from the spec
