"""One pass over one topology: look, plan, bring about, look again, tell. Level-based and idempotent.

Every pass starts from what is there now; nothing is remembered between passes but clients of other clusters, when a
generation was first seen (for a metric), and that passes fail, which the status tells once they have for a while. A
second pass over an unchanged world writes nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from milliner_operator import (
    conditions,
    errors,
    events,
    executor,
    failing,
    kinds,
    leaving,
    observed,
    outlook,
    sightings,
    status,
    world,
)
from milliner_operator.api import Api
from milliner_operator.children import common
from milliner_operator.metrics import Metrics
from milliner_operator.observed import ClusterRef, Manifest, Ref, RemoteCluster, Trouble
from milliner_operator.plan import Plan
from milliner_operator.queue import Key
from milliner_operator.remote import FINALIZER, Clusters, needs_finalizer
from milliner_operator.seen import Seen
from milliner_operator.settings import Settings

_PASS_S = 90.0  # arbitrary: above the deadlines of a pass's calls; the queue gives one a little longer
_REMOTE_S = 30.0  # arbitrary: for all that is written in one other cluster in a pass; the next goes on from there
_UNSETTLED_S = 5.0  # how soon a topology that is not ready is looked at again: pods tell nobody why they fail
_READY_VALUES = {"True": 1, "False": 0}

_logger = logging.getLogger(__name__)


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Reconciler:
    """Passes over topologies of one cluster; `now` is the wall clock, for certificates and timestamps."""

    def __init__(
        self,
        client: Api,
        *,
        settings: Settings,
        clusters: Clusters,
        metrics: Metrics,
        now: Callable[[], datetime.datetime] = _utc_now,
    ) -> None:
        self._client = client
        self._settings = settings
        self._clusters = clusters
        self._metrics = metrics
        self._now = now
        self._failing = failing.Failing()
        self._slow: set[Key] = set()  # topologies with something in other clusters, which may be silent

    def waits_for_others(self, key: Key) -> bool:
        """Whether passes over a topology ask other clusters."""
        return key in self._slow

    async def __call__(self, key: Key) -> float | None:
        """One pass; returns after how many seconds to look again, None if the topology is gone."""
        started, result = time.monotonic(), "error"
        try:
            async with asyncio.timeout(_PASS_S):
                delay = await self._pass(*key)
            result = "gone" if delay is None else "done"
            if delay is None:
                self._slow.discard(key)
            self._failing.ended_well(key)
            return delay
        except Exception as error:
            if self._failing.failed(key):
                await self._tell_failure(*key, error)
            raise
        finally:
            self._metrics.passes.labels(result).inc()
            self._metrics.duration.observe(time.monotonic() - started)

    async def _pass(self, namespace: str, name: str) -> float | None:
        document = await self._client.get(kinds.TOPOLOGY, namespace, name)
        if document is None:
            self._metrics.forget(namespace, name)
            return None
        objects = await world.children(self._client, document)
        if FINALIZER in (document["metadata"].get("finalizers") or []) or world.clusters_in(document):
            self._slow.add((namespace, name))
        else:
            self._slow.discard((namespace, name))
        if "deletionTimestamp" in document["metadata"]:
            return await self._release(document, objects)
        before = document.get("status") or {}
        if not before.get("conditions"):
            before = status.first(document["metadata"]["generation"], now=self._stamp())
            await self._write_status(document, before)
        self._metrics.seen(document)
        scope = common.Scope(
            topology=name, namespace=namespace, uid=document["metadata"]["uid"], settings=self._settings
        )
        seen = await self._bring_about(document, scope, objects)
        after = status.build(seen, before=before, now=self._stamp())
        await self._tell(document, before=before, after=after)
        return self._settle(scope, seen, after)

    async def _bring_about(self, document: Manifest, scope: common.Scope, objects: Mapping[Ref, Manifest]) -> Seen:
        """Plans and writes; returns what is there after."""
        there = await outlook.look(
            self._client, self._clusters, document, scope=scope, objects=objects, now=self._now()
        )
        plan, clusters, clients = there.plan, there.clusters, there.clients
        has = FINALIZER in (document["metadata"].get("finalizers") or [])
        needs = needs_finalizer(planned=any(plan.remote.values()), recorded=bool(clusters), has=has)
        if needs and not has:
            await self._set_finalizer(document, present=True)  # before anything is made there
        outcome = await executor.execute(
            self._client,
            namespace=scope.namespace,
            uid=scope.uid,
            wanted=plan.local,
            live=objects,
            unwanted=plan.unwanted,
            complete=plan.complete,
            awaiting=plan.awaiting,
        )
        self._metrics.writes.inc(outcome.writes)
        troubles = dict(outcome.troubles)
        after = dict(clusters)
        for ref, client in clients.items():
            after[ref] = await self._remote(scope, ref, client, plan, clusters[ref], troubles)
        if has and not needs:
            await self._set_finalizer(document, present=False)
        return await self._with_sightings(scope, document, plan, outcome.objects, after, clients, troubles)

    async def _remote(
        self,
        scope: common.Scope,
        ref: ClusterRef,
        client: Api,
        plan: Plan,
        seen: RemoteCluster,
        troubles: dict[str, Trouble],
    ) -> RemoteCluster:
        """Brings about the children in another cluster; its failures are that cluster's alone."""
        try:
            async with asyncio.timeout(_REMOTE_S):
                outcome = await executor.execute(
                    client,
                    namespace=scope.namespace,
                    uid=scope.uid,
                    wanted=plan.remote.get(ref, ()),
                    live=seen.objects,
                    complete=plan.is_complete(ref, seen.objects.values()),
                    awaiting=plan.awaiting,
                )
        except (errors.ApiError, TimeoutError) as error:
            why = error.message if isinstance(error, errors.ApiError) else f"too slow: writing took {_REMOTE_S:.0f} s"
            return RemoteCluster(seen.objects, error=f"cluster of Secret {ref.secret}: {why}")
        self._metrics.writes.inc(outcome.writes)
        troubles.update(outcome.troubles)
        return RemoteCluster(outcome.objects)

    async def _with_sightings(
        self,
        scope: common.Scope,
        document: Manifest,
        plan: Plan,
        objects: Mapping[Ref, Manifest],
        clusters: Mapping[ClusterRef, RemoteCluster],
        clients: Mapping[ClusterRef, Api],
        troubles: Mapping[str, Trouble],
    ) -> Seen:
        seen = Seen(
            topology=scope.topology,
            generation=document["metadata"]["generation"],
            plan=plan,
            objects=objects,
            clusters=clusters,
            troubles=troubles,
            sightings=observed.Sightings(),
        )
        found = await sightings.look(
            seen, local=self._client, remote=clients, namespace=scope.namespace, now=self._now()
        )
        return dataclasses.replace(seen, sightings=found)

    async def _release(self, document: Manifest, objects: Mapping[Ref, Manifest]) -> float | None:
        """The topology is being deleted: other clusters are cleaned up, the rest is the garbage collector's."""
        finalizers = document["metadata"].get("finalizers") or []
        if FINALIZER not in finalizers:
            if finalizers:
                await self._tell_ending(document, finalizers)
            return None
        problems = await leaving.clean_up(self._client, self._clusters, document, objects)
        if not problems:
            await self._set_finalizer(document, present=False)
            return None
        before = document.get("status") or {}
        generation = document["metadata"]["generation"]
        after = status.leaving(generation, problems=problems, before=before, now=self._stamp())
        await self._tell(document, before=before, after=after)
        return _UNSETTLED_S

    async def _tell_ending(self, document: Manifest, finalizers: Iterable[str]) -> None:
        """Says once that the topology only waits for others; without an Event, as it is what was asked for."""
        before, generation = document.get("status") or {}, document["metadata"]["generation"]
        after = status.ending(generation, finalizers=finalizers, before=before, now=self._stamp())
        self._note_ready(document["metadata"]["namespace"], document["metadata"]["name"], after)
        if after == before:
            return
        try:
            await self._write_status(document, after)
        except errors.NotFound:
            return  # gone meanwhile

    async def _tell(self, document: Manifest, *, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Writes the status if it changed, and posts what changed in it."""
        if after == before:
            return
        await self._write_status(document, after)
        await events.post_transitions(self._client, document, before=before, after=after, now=self._stamp())

    async def _tell_failure(self, namespace: str, name: str, error: Exception) -> None:
        """Says in the status that nothing is known any more, if it can be written; the error itself is raised on."""
        try:
            document = await self._client.get(kinds.TOPOLOGY, namespace, name)
            if document is None:
                return
            before, generation = document.get("status") or {}, document["metadata"]["generation"]
            message = failing.words(error)
            after = failing.status(generation, message=message, before=before, now=self._stamp())
            self._note_ready(namespace, name, after)
            await self._tell(document, before=before, after=after)
        except errors.ApiError as silent:
            _logger.warning("%s/%s: nor can the status say so: %s", namespace, name, silent)

    async def _set_finalizer(self, document: Manifest, *, present: bool) -> None:
        metadata = document["metadata"]
        others = [each for each in metadata.get("finalizers") or [] if each != FINALIZER]
        patch = {
            "metadata": {
                "finalizers": [*others, FINALIZER] if present else others,
                "resourceVersion": metadata["resourceVersion"],
            }
        }
        updated = await self._client.merge(kinds.TOPOLOGY, metadata["namespace"], metadata["name"], patch)
        metadata.update(updated["metadata"])
        self._metrics.writes.inc()

    async def _write_status(self, document: Manifest, content: Mapping[str, Any]) -> None:
        metadata = document["metadata"]
        written = await self._client.apply_status(
            metadata["namespace"], metadata["name"], content, version=metadata["resourceVersion"]
        )
        metadata["resourceVersion"] = written["metadata"]["resourceVersion"]
        self._metrics.writes.inc()

    def _settle(self, scope: common.Scope, seen: Seen, after: Mapping[str, Any]) -> float:
        """Metrics of the outcome, and when to look again."""
        ready = self._note_ready(scope.namespace, scope.topology, after)
        is_ready = ready["status"] == "True"
        self._metrics.settled(scope.uid, seen.generation, ready=is_ready)
        settled = is_ready or ready["reason"] == conditions.Reason.SCALED_TO_ZERO.value
        return float(self._settings.resync_s) if settled else _UNSETTLED_S

    def _note_ready(self, namespace: str, name: str, after: Mapping[str, Any]) -> Mapping[str, Any]:
        """The gauge of a status' Ready, which is returned."""
        ready: Mapping[str, Any] = next(
            each for each in after["conditions"] if each["type"] == conditions.Type.READY.value
        )
        self._metrics.ready.labels(namespace, name).set(_READY_VALUES.get(ready["status"], -1))
        return ready

    def _stamp(self) -> str:
        return observed.stamp(self._now())
