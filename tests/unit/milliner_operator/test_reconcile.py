"""Passes against an API server in memory: events, pools in other clusters, calls; the rest is proven at a real one."""

from __future__ import annotations

import base64
import json
from typing import Any

import prometheus_client
import pytest
from tests.unit.milliner_operator import worlds
from tests.unit.milliner_operator.fake_api import FakeApi

from milliner.contract import topology
from milliner_operator import errors, inspection, metrics, reconcile, remote, workloads
from milliner_operator.settings import Settings

KEY = ("default", "chat")
PROBE = {"ok": True, "reason": "", "modelDigest": worlds.DIGEST, "roundTripMicroseconds": 21000, "ageSeconds": 1}


class Bench:
    """A reconciler over a fake cluster, with another fake cluster for pools elsewhere."""

    def __init__(self, changes: dict[str, Any] | None = None, settings: Settings = worlds.SETTINGS) -> None:
        self.api, self.edge = FakeApi(), FakeApi()
        self.registry = prometheus_client.CollectorRegistry()
        self.document = worlds.document(changes)
        self.api.put(self.document)
        self._settings = settings
        self.restart()

    def restart(self) -> None:
        """Another process: nothing is remembered."""
        self.reconciler = reconcile.Reconciler(
            self.api,
            settings=self._settings,
            clusters=remote.Clusters(self.api, connect=lambda text: self.edge),
            metrics=metrics.Metrics(prometheus_client.CollectorRegistry()),
            now=lambda: worlds.NOW,
        )

    async def turn(self, times: int = 1) -> float | None:
        delay = None
        for _ in range(times):
            delay = await self.reconciler(KEY)
        return delay

    def change(self, changes: dict[str, Any]) -> None:
        document = worlds.document(changes)
        self.api.put(document)

    def answer(self, **content: Any) -> None:
        """The inspect Job's pod ends with an answer."""
        wanted = topology.parse(self.topology)
        name = inspection.job_name(wanted, scope=worlds.scope())
        ended = {"exitCode": 0, "message": worlds.facts_line(wanted, **content), "finishedAt": worlds.STAMP}
        labels = {"batch.kubernetes.io/job-name": name}
        status = {"phase": "Succeeded", "containerStatuses": [{"name": "m", "state": {"terminated": ended}}]}
        self.api.put({"kind": "Pod", "metadata": {"name": f"{name}-x", "labels": labels}, "status": status})

    def serve(self, api: FakeApi | None = None) -> None:
        """All workloads are brought about, and a device of each pool answers its probe."""
        client = api or self.api
        for key, each in list(client.objects.items()):
            if key[0] in ("Deployment", "DaemonSet"):
                each["status"] = worlds.serving(each)["status"]
                labels = each["spec"]["template"]["metadata"]["labels"]
                ready = {"type": "Ready", "status": "True"}
                name = f"{key[2]}-pod"
                client.put(
                    {
                        "kind": "Pod",
                        "metadata": {"name": name, "labels": labels},
                        "status": {"phase": "Running", "conditions": [ready]},
                    }
                )
                client.probes[name] = json.dumps(PROBE)

    @property
    def topology(self) -> dict[str, Any]:
        return self.api.one("InferenceTopology", "chat")

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.topology["status"]
        return found

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(each for each in self.status["conditions"] if each["type"] == kind)
        return found["status"], found["reason"]

    async def ready(self) -> None:
        """Until Ready is True."""
        await self.turn()
        self.answer()
        await self.turn(2)
        self.serve()
        await self.turn()
        assert self.condition("Ready") == ("True", "AllRolesReady")


async def test_from_nothing_to_ready_and_then_no_write() -> None:
    bench = Bench()
    await bench.ready()
    assert bench.api.names("Job") == []
    assert not any("inspect" in name for kind in ("ConfigMap", "ServiceAccount") for name in bench.api.names(kind))
    assert bench.status["summary"] == {"cloud": "1/1", "devices": "1/1"}
    assert bench.status["probe"]["roundTripMicroseconds"] == 21000
    bench.api.writes.clear()
    assert await bench.turn() == worlds.SETTINGS.resync_s
    bench.restart()
    await bench.turn(2)
    assert bench.api.writes == []


async def test_a_spec_that_does_not_parse_is_told_in_the_same_words() -> None:
    bench = Bench({"spec.cloud": {"replicas": 2, "scaling": {"maxReplicas": 4}}})
    await bench.turn()
    ready = bench.status["conditions"][0]
    assert ready["reason"] == "SpecInvalid"
    assert "cloud.replicas and cloud.scaling are both set" in ready["message"]


async def test_events_are_posted_on_transitions_only() -> None:
    bench = Bench()
    await bench.ready()
    bench.api.writes.clear()
    await bench.turn(3)
    assert bench.api.writes == []
    bench.api.probes.clear()
    await bench.turn(3)
    assert [each for each in bench.api.writes if each[0] == "create"] == [("create", "Event", "")]


REMOTE = {
    "spec.devicePools": [{"name": "orin", "clusterSecretRef": {"name": "edge"}}],
    "spec.cloud.service": {"type": "LoadBalancer"},
}


async def remote_bench() -> Bench:
    bench = Bench(REMOTE)
    kubeconfig = base64.b64encode(b"apiVersion: v1").decode()
    bench.api.put({"kind": "Secret", "metadata": {"name": "edge"}, "data": {"kubeconfig": kubeconfig}})
    await bench.turn()
    bench.answer()
    await bench.turn(2)
    assert bench.condition("DevicesReady") == ("False", "AwaitingAddress")
    bench.api.one("Service", "chat-cloud-external")["status"] = {"loadBalancer": {"ingress": [{"ip": "10.0.0.9"}]}}
    await bench.turn()
    bench.serve()
    bench.serve(bench.edge)
    await bench.turn()
    assert bench.condition("Ready") == ("True", "AllRolesReady")
    return bench


async def test_a_pool_elsewhere_is_ready_there_and_cleaned_up_with_the_topology() -> None:
    bench = await remote_bench()
    assert bench.edge.names("DaemonSet") == ["chat-device-orin"]
    assert bench.topology["metadata"]["finalizers"] == [remote.FINALIZER]
    assert bench.status["devicePools"][0]["cluster"] == "edge"
    bench.topology["metadata"]["deletionTimestamp"] = worlds.STAMP
    bench.restart()
    assert await bench.turn() is None
    assert not [key for key in bench.edge.objects if key[0] != "Pod"]
    assert ("InferenceTopology", "default", "chat") not in bench.api.objects


async def test_a_pool_that_comes_home_leaves_nothing_elsewhere() -> None:
    bench = await remote_bench()
    bench.restart()
    bench.change({"spec.devicePools": [{"name": "local", "replicas": 1}]})
    await bench.turn(3)
    assert not [key for key in bench.edge.objects if key[0] != "Pod"]
    assert "chat-clusters" not in bench.api.names("ConfigMap")
    assert bench.topology["metadata"].get("finalizers") in ([], None)


async def test_a_cluster_that_does_not_answer_harms_only_its_pool() -> None:
    bench = await remote_bench()
    bench.api.writes.clear()
    bench.edge.fail = lambda verb, kind: errors.Unreachable(0, "no route to host")
    await bench.turn()
    assert bench.condition("DevicesReady") == ("False", "DeviceUnreachable")
    assert bench.condition("CloudReady")[0] == "True"
    assert {verb for verb, *_ in bench.api.writes} == {"status", "create"}
    bench.edge.fail = lambda verb, kind: None
    await bench.turn()
    assert bench.condition("Ready")[0] == "True"


async def test_deletion_waits_for_a_cluster_that_does_not_answer_but_not_for_one_whose_secret_is_gone() -> None:
    bench = await remote_bench()
    bench.topology["metadata"]["deletionTimestamp"] = worlds.STAMP
    bench.edge.fail = lambda verb, kind: errors.Unreachable(0, "no route to host")
    with pytest.raises(errors.Unreachable):
        await bench.turn()
    assert bench.topology["metadata"]["finalizers"] == [remote.FINALIZER]
    del bench.api.objects["Secret", "default", "edge"]
    await bench.turn()
    assert ("InferenceTopology", "default", "chat") not in bench.api.objects


async def test_calls_do_not_grow_with_pods() -> None:
    def counted(bench: Bench) -> list[tuple[str, str]]:
        calls: list[tuple[str, str]] = []

        def note(verb: str, kind: str) -> None:
            calls.append((verb, kind))

        bench.api.fail = note
        return calls

    totals = []
    for nodes in (2, 200):
        bench = Bench({"spec.devicePools": [{"name": "p"}]})
        await bench.ready()
        daemon_set = bench.api.one("DaemonSet", "chat-device-p")
        labels = daemon_set["spec"]["template"]["metadata"]["labels"]
        for number in range(nodes):
            bench.api.put(
                {"kind": "Pod", "metadata": {"name": f"p-{number}", "labels": labels}, "status": {"phase": "Running"}}
            )
        daemon_set["status"] |= {"desiredNumberScheduled": nodes, "numberReady": nodes - 1}
        calls = counted(bench)
        await bench.turn()
        totals.append(len(calls))
    assert totals[0] == totals[1]


def test_progress_of_a_workload_that_is_not_there() -> None:
    assert workloads.progress(None) == workloads.Progress()
    assert not workloads.Progress().complete
