"""Other clusters of device pools: a client for each kubeconfig Secret, and the cleaning up of what was made there.

No owner reference reaches across clusters, so children carry the topology's uid as a label, the ConfigMap
`<topology>-clusters` lists where there are any, and the topology has a finalizer as long as that is so.

Of clients two things are kept in mind, neither of which decides what is wanted: a cluster that did not answer is not
asked again for a while, so that one that is silent does not hold up the topologies of others; and the last credentials
for a Secret, so that what is left behind is cleaned up even if the Secret went first, as in a namespace's deletion.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from milliner.contract import names
from milliner_operator import api, errors, executor, kinds, observed
from milliner_operator.api import Api
from milliner_operator.children import common, plain
from milliner_operator.observed import ClusterRef, Manifest, Ref, RemoteCluster

FINALIZER = f"{names.GROUP}/remote-pools"
_ANSWER_S = 8.0  # arbitrary: a cluster that does not answer must not hold up the topology's own
_STILL_S = 3.0  # arbitrary: the same for one that did not answer last time
_SILENCE_S = 10.0  # arbitrary: how long a cluster that did not answer is taken for silent without asking it

_RETIRED_S = 200.0  # above a pass's deadline: one that runs may still use a client that others have done with
_UNUSED_S = 7200.0  # twice the longest resync: no topology names the Secret any more

_logger = logging.getLogger(__name__)

Connect = Callable[[str], Api]  # kubeconfig text -> client; raises ValueError


def needs_finalizer(*, planned: bool, recorded: bool, has: bool) -> bool:
    """Whether deletion must wait for cleaning up elsewhere: from the first plan of children in another cluster until no
    pool names one and none is recorded to hold any."""
    return planned or (has and recorded)


@dataclasses.dataclass(slots=True)
class _Last:
    """The hash of the kubeconfig that a Secret had, and when it was last asked for."""

    identity: str
    asked_s: float


class Clusters:
    """Clients of other clusters, one for each kubeconfig; a changed Secret gets a new one. `now` is monotonic."""

    def __init__(self, local: Api, *, connect: Connect, now: Callable[[], float] = time.monotonic) -> None:
        self._local = local
        self._connect = connect
        self._now = now
        self._clients: dict[str, Api] = {}  # by the kubeconfig's hash
        self._last: dict[tuple[str, ClusterRef], _Last] = {}
        self._used_s: dict[str, float] = {}  # when a client was last asked for, by hash
        self._silent: dict[str, tuple[float, str]] = {}  # until when, and what was the error

    async def look(
        self, namespace: str, refs: Iterable[ClusterRef], *, named: Collection[ClusterRef], topology: str, uid: str
    ) -> tuple[dict[ClusterRef, RemoteCluster], dict[ClusterRef, Api]]:
        """What is there of a topology in each cluster, and the clients of those that answer.

        A cluster that no pool has `named` is one to clean up: credentials that are gone from its Secret still do.
        """
        listed = sorted(set(refs))
        looks = (self._look_at(namespace, ref, named=ref in named, topology=topology, uid=uid) for ref in listed)
        found = await asyncio.gather(*looks)
        self._retire()
        seen = {ref: cluster for ref, (cluster, _) in zip(listed, found, strict=True)}
        clients = {ref: client for ref, (_, client) in zip(listed, found, strict=True) if client is not None}
        return seen, clients

    async def clean_up(self, namespace: str, refs: Iterable[ClusterRef], *, topology: str, uid: str) -> list[str]:
        """Deletes all children of a topology in other clusters; returns what kept it from doing so.

        A cluster without credentials cannot be cleaned up and is passed over: deletion must not hang for it.
        """
        seen, clients = await self.look(namespace, refs, named=(), topology=topology, uid=uid)
        problems = [each.error for each in seen.values() if each.error and not each.given_up]
        for ref, client in clients.items():
            live = seen[ref].objects
            try:
                done = await executor.execute(client, namespace=namespace, uid=uid, wanted=(), live=live, complete=True)
                problems += (_problem(ref, each.message) for each in done.troubles.values())
            except errors.ApiError as error:
                problems.append(_problem(ref, error.message))
        return problems

    async def _look_at(
        self, namespace: str, ref: ClusterRef, *, named: bool, topology: str, uid: str
    ) -> tuple[RemoteCluster, Api | None]:
        try:
            identity = await self._identity(namespace, ref)
        except errors.NotFound as error:
            last = None if named else self._last.get((namespace, ref))
            if last is None:
                return self._without(ref, error.message, named=named), None
            last.asked_s = self._now()
            found = await self._ask(last.identity, namespace, ref, topology=topology, uid=uid)
            return found if found[1] is not None else (self._without(ref, found[0].error, named=named), None)
        except errors.ApiError as error:
            return RemoteCluster(error=_problem(ref, error.message)), None
        return await self._ask(identity, namespace, ref, topology=topology, uid=uid)

    async def _identity(self, namespace: str, ref: ClusterRef) -> str:
        """The hash of a Secret's kubeconfig, which has a client then; raises `ApiError` (*expected*)."""
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
                raise errors.Refused(400, f"key {ref.key}: {error}") from None
            self._used_s[identity] = self._now()
        self._last[namespace, ref] = _Last(identity, self._now())
        return identity

    async def _ask(
        self, identity: str, namespace: str, ref: ClusterRef, *, topology: str, uid: str
    ) -> tuple[RemoteCluster, Api | None]:
        until, why = self._silent.get(identity, (0.0, ""))
        if self._now() < until:
            return RemoteCluster(error=_problem(ref, why)), None
        client, self._used_s[identity] = self._clients[identity], self._now()
        limit_s = _STILL_S if identity in self._silent else _ANSWER_S
        if identity in self._silent:  # one pass finds out whether it answers again, the others need not wait for that
            self._silent[identity] = (self._now() + limit_s, why)
        try:
            async with asyncio.timeout(limit_s):
                objects = await _list(client, namespace, topology=topology, uid=uid)
        except errors.Unreachable as error:
            why = error.message
        except TimeoutError:
            why = f"no answer within {limit_s:.0f} s"
        except errors.ApiError as error:  # it answers, if only to refuse: ask again next time
            self._silent.pop(identity, None)
            return RemoteCluster(error=_problem(ref, error.message)), None
        else:
            self._silent.pop(identity, None)
            return RemoteCluster(objects), client
        self._silent[identity] = (self._now() + _SILENCE_S, why)
        return RemoteCluster(error=_problem(ref, why)), None

    def _retire(self) -> None:
        """Closes the clients of credentials that no Secret has any more, and forgets Secrets that nobody names."""
        now = self._now()
        self._last = {key: each for key, each in self._last.items() if now - each.asked_s < _UNUSED_S}
        kept = {each.identity for each in self._last.values()}
        for identity in [each for each in self._clients if each not in kept]:
            if now - self._used_s[identity] >= _RETIRED_S:
                self._clients.pop(identity).close()
                del self._used_s[identity]
                self._silent.pop(identity, None)

    def _without(self, ref: ClusterRef, why: str, *, named: bool) -> RemoteCluster:
        if not named:
            _logger.warning("given up what is left in the cluster of Secret %s: %s", ref.secret, why)
        return RemoteCluster(error=_problem(ref, why), given_up=not named)


def _problem(ref: ClusterRef, why: str) -> str:
    return f"cluster of Secret {ref.secret}: {why}"


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
