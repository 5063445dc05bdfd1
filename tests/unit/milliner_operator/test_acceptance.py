"""While a spec cannot be planned the last one that could is in force: what somebody deletes of it comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner.contract import topology
from milliner_operator import acceptance, observed, plan, planner
from milliner_operator.conditions import Type
from milliner_operator.observed import Manifest, Ref, World

LARGER: dict[str, Any] = {"spec.cloud.replicas": 3}
UNREADABLE: dict[str, Any] = {"spec.model.source": "hf://nobody/nothing"}


def accepted(changes: dict[str, Any] | None = None) -> dict[Ref, Manifest]:
    """The children that a planned topology has, those alone that hold what was found out."""
    planned = worlds.planned(changes)
    kept = [each for each in planned.local if each["metadata"]["name"] in ("chat-accepted", "chat-facts")]
    return observed.by_ref(kept)


def stored(objects: dict[Ref, Manifest], changes: dict[str, Any] | None = None) -> acceptance.Accepted | None:
    return acceptance.stored(worlds.document(changes), objects, uid=worlds.UID)


def standing(objects: dict[Ref, Manifest]) -> plan.Plan:
    """The plan of the spec that is kept in `objects`."""
    found = stored(objects)
    assert found is not None
    world = World(objects=found.objects(objects, scope=worlds.scope()))
    return planner.plan_topology(found.wanted, scope=worlds.scope(), world=world, now=worlds.NOW)


def combined(changes: dict[str, Any], *, before: dict[str, Any] | None = None, tls_changes: bool = False) -> plan.Plan:
    """What is to be brought about of a topology so changed, after one that was planned."""
    objects = accepted(before)
    refused = planner.plan_topology(
        worlds.parsed(changes), scope=worlds.scope(), world=World(objects=objects), now=worlds.NOW
    )
    assert not refused.planned
    return acceptance.meanwhile(refused, standing(objects), tls_changes=tls_changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        LARGER,
        {"spec.cloud.scaling": {"minReplicas": 1, "maxReplicas": 3}},
        {"spec.cloud.pod": {"resources": {"requests": {"cpu": 2, "memory": "1Gi"}}}},
        {"spec.devicePools": [{"name": "orin", "nodeSelector": {"a": "b"}, "api": {"keysSecretRef": {"name": "k"}}}]},
    ],
)
def test_a_spec_that_was_planned_comes_back_as_it_was(changes: dict[str, Any]) -> None:
    found = stored(accepted(changes))
    assert found is not None
    assert found.wanted == worlds.parsed(changes)
    without_facts = [each for each in worlds.planned(changes).local if each["metadata"]["name"] != "chat-facts"]
    kept = [each for each in standing(accepted(changes)).local if each["metadata"]["name"] != "chat-facts"]
    assert kept == without_facts


@pytest.mark.parametrize("changes", [UNREADABLE | LARGER, {"spec.strategy": {"type": "PDDevice"}}])
def test_what_was_planned_is_wanted_until_the_next_can_be(changes: dict[str, Any]) -> None:
    found = combined(changes)
    before = worlds.kinds_and_names(worlds.planned().local) - {("ConfigMap", "chat-facts")}
    assert before <= worlds.kinds_and_names(found.local)
    assert worlds.child(found, "Deployment", "chat-cloud")["spec"]["replicas"] == 1
    assert not found.complete and found.unwanted == ()


def test_the_new_sources_are_inspected_meanwhile_and_their_condition_is_told() -> None:
    found = combined(UNREADABLE)
    assert [each["kind"] for each in found.local].count("Job") == 1
    told = found.condition(Type.MODEL_READY)
    assert told is not None and told.status is None
    assert found.facts is None


def test_facts_of_the_new_sources_are_not_overwritten() -> None:
    error = {"reason": "ModelNotFound", "field": "model.source", "message": "names nothing: correct it"}
    wanted = worlds.parsed(UNREADABLE)
    world = worlds.world(wanted, line=worlds.facts_line(wanted, error=error), objects=accepted_only())
    refused = planner.plan_topology(wanted, scope=worlds.scope(), world=world, now=worlds.NOW)
    found = acceptance.meanwhile(refused, standing(accepted()), tls_changes=False)
    line = worlds.child(found, "ConfigMap", "chat-facts")["data"]["facts.json"]
    assert json.loads(line)["error"] == error
    assert ("Deployment", "chat-cloud") in worlds.kinds_and_names(found.local)


def accepted_only() -> dict[Ref, Manifest]:
    return {ref: each for ref, each in accepted().items() if ref[1] == "chat-accepted"}


def test_secrets_of_another_tls_mode_are_left_to_it() -> None:
    wanted = worlds.parsed()
    world = worlds.world(wanted, identities=worlds.identities(wanted))
    before = planner.plan_topology(wanted, scope=worlds.scope(), world=world, now=worlds.NOW)
    secrets = {each for each in worlds.kinds_and_names(before.local) if each[0] == "Secret"}
    assert len(secrets) == 3
    refused = plan.Plan()
    kept = acceptance.meanwhile(refused, before, tls_changes=False)
    left = acceptance.meanwhile(refused, before, tls_changes=True)
    assert secrets <= worlds.kinds_and_names(kept.local)
    assert worlds.kinds_and_names(kept.local) - worlds.kinds_and_names(left.local) == secrets


def test_roles_are_told_of_even_where_the_spec_does_not_parse() -> None:
    found = acceptance.meanwhile(plan.Plan(), standing(accepted()), tls_changes=False)
    assert [each.workload[1] for each in found.roles] == ["chat-cloud", "chat-device-local"]


def test_facts_that_no_longer_answer_hold_nothing_up() -> None:
    objects = accepted()
    objects["ConfigMap", "chat-accepted"]["data"]["facts.json"] = worlds.facts_line(worlds.parsed(), key="another")
    assert not standing(objects).planned
    refused = plan.Plan()
    assert acceptance.meanwhile(refused, standing(objects), tls_changes=False) is refused


def test_what_another_topology_of_the_name_left_or_somebody_wrote_is_not_taken() -> None:
    objects = accepted()
    assert acceptance.stored(worlds.document(), objects, uid="uid-next") is None
    objects["ConfigMap", "chat-accepted"]["data"]["spec.json"] = '{"model": 7}'
    assert stored(objects) is None
    objects["ConfigMap", "chat-accepted"]["data"] = {"spec.json": "{"}
    assert stored(objects) is None
    assert stored({}) is None


def test_a_stored_spec_is_one_that_parses_again() -> None:
    document = worlds.document(LARGER)
    assert topology.parse({**document, "spec": topology.parse(document).spec.document()}) == topology.parse(document)
