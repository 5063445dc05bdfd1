"""A server that users already run instead of cloud pods: who may reach it, with which key, and what is told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.milliner_operator import test_status, test_whole_models, worlds

from milliner.wire.external import failures
from milliner_operator import leaves, observed, plan, probes, sightings
from milliner_operator.conditions import Type
from milliner_operator.observed import Probe
from milliner_operator.seen import Seen

URL = "http://vllm.models.svc:8000/v1"
KEY = {"name": "vllm", "key": "token"}


def changes(strategy: str = "PDDevice", **external: Any) -> dict[str, Any]:
    engine = {"type": "External", "external": {"url": URL} | external}
    return {"spec.strategy": {"type": strategy}, "spec.cloud": {"engine": engine}}


def seen_of(made: plan.Plan, probe: Probe | None, *, ready: int = 1) -> Seen:
    objects = {
        observed.ref(each): worlds.serving(each, ready=ready) if each["kind"] == "Deployment" else each
        for each in made.local
    }
    found = observed.Sightings(probes={} if probe is None else {"local": probe})
    return Seen(topology="chat", generation=1, plan=made, objects=objects, clusters={}, troubles={}, sightings=found)


@pytest.mark.parametrize("strategy", ["PDDevice", "CloudOnly"])
def test_devices_know_the_server_and_nothing_of_a_cloud_tier_is_there(strategy: str) -> None:
    wanted = changes(strategy, model="qwen", apiKeySecretRef=KEY)
    made = test_whole_models.planned(wanted)
    assert worlds.kinds_and_names(made.local) == test_whole_models.FACTS | test_whole_models.device("local")
    config = test_whole_models.config(made, "chat-device-local")
    assert config["external"] == {"url": URL, "model": "qwen", "apiKeyFile": "/etc/milliner-engine/key"}
    assert not config["cloudEndpoints"] and not {"cloudModelDigest", "tls"} & config.keys()


def test_the_key_is_mounted_where_the_configuration_says() -> None:
    made = test_whole_models.planned(changes(apiKeySecretRef=KEY))
    pod = worlds.child(made, "Deployment", "chat-device-local")["spec"]["template"]["spec"]
    (volume,) = [each["secret"] for each in pod["volumes"] if each["name"] == "engine-key"]
    assert (volume["secretName"], volume["items"]) == ("vllm", [{"key": "token", "path": "key"}])
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts["engine-key"] == "/etc/milliner-engine"
    without = test_whole_models.planned(changes())
    assert "engine-key" not in json.dumps(worlds.child(without, "Deployment", "chat-device-local"))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "engine.localhost"])
def test_an_address_that_is_each_pod_itself_is_refused(host: str) -> None:
    made = test_whole_models.planned(changes(url=f"http://{host}:8000/v1"))
    condition = made.condition(Type.SPEC_VALID)
    assert condition is not None and condition.status is False
    assert f"http://{host}:8000/v1, which is each pod itself" in condition.message


@pytest.mark.parametrize(
    ("url", "port", "namespace"),
    [(URL, 8000, "models"), ("https://engine.example/v1", 443, None), ("http://10.0.0.7:9000", 9000, None)],
)
def test_the_policy_lets_devices_reach_the_server_alone(url: str, port: int, namespace: str | None) -> None:
    made = test_whole_models.planned(changes(url=url))
    rules = worlds.child(made, "NetworkPolicy", "chat-device-local")["spec"]["egress"]
    ports = {each["port"] for rule in rules for each in rule.get("ports", ())}
    assert ports == {53, 5353, port}
    inside = [peer["namespaceSelector"]["matchLabels"] for rule in rules for peer in rule.get("to", ())]
    assert inside == ([{"kubernetes.io/metadata.name": namespace}] if namespace else [])


def said(reason: str) -> Probe:
    """What a device's probe says, as the operator reads it."""
    return probes.parse(json.dumps({"ok": False, "reason": reason}), pod="p")


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (test_status.GOOD, ("True", "ExternalEngineAnswers")),
        (None, ("Unknown", "Reconciling")),
        (said("no first request has succeeded yet"), ("Unknown", "Reconciling")),
        (said(f"{failures.FIELD}: http://vllm: refused"), ("False", "ExternalEngineUnreachable")),
        (said(f"{failures.KEY_FIELD}: answers 401; it wants another key"), ("False", "ExternalEngineUnreachable")),
        (said(f"{failures.MODEL_FIELD}: serves a, not b"), ("False", "ExternalModelMismatch")),
    ],
)
def test_the_cloud_is_as_ready_as_devices_find_the_server(probe: Probe | None, expected: tuple[str, str]) -> None:
    document = test_status.built(seen_of(test_whole_models.planned(changes()), probe))
    assert test_status.condition(document, "CloudReady") == expected
    assert (test_status.condition(document)[0] == "True") == (expected[0] == "True")
    assert document["summary"]["cloud"] == "-"
    assert document["cloud"]["endpoint"] == URL


def test_the_fields_that_devices_name_are_those_that_are_looked_for() -> None:
    assert failures.FIELD == leaves.EXTERNAL_FIELD
    assert f"{leaves.EXTERNAL_FIELD}.model" == failures.MODEL_FIELD


async def test_devices_that_wait_for_the_server_are_asked_why() -> None:
    """Devices without a model of their own are not ready without it, and would not be asked: no cause would be told."""
    reason = f"{failures.FIELD}: connection refused"
    running = {"metadata": {"name": "device-1"}, "status": {"phase": "Running"}}

    class Cluster:
        async def list(self, *_: Any, **__: Any) -> list[Any]:
            return [running]

        async def proxy_pod(self, *_: Any, **__: Any) -> str:
            return json.dumps({"ok": False, "reason": reason})

    seen = seen_of(test_whole_models.planned(changes("CloudOnly")), None, ready=0)
    found = await sightings.look(
        seen,
        local=Cluster(),  # type: ignore[arg-type]
        remote={},
        namespace="default",
        now=worlds.NOW,
    )
    assert reason in found.probes["local"].reason
    assert found.probes["local"].field == failures.FIELD
