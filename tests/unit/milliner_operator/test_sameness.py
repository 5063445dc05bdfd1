"""Live objects that are as desired are left alone; those that are not, or hold what is no longer wanted, are not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from milliner_operator import sameness

FIELDS: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:a": {}}},
    "f:spec": {
        "f:replicas": {},
        "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}, "f:protocol": {}}},
        "f:finalizers": {'v:"x"': {}},
    },
}


def desired(**spec: Any) -> dict[str, Any]:
    ports = [{"containerPort": 80, "protocol": "TCP"}]
    content = {"replicas": 2, "ports": ports, "finalizers": ["x"]} | spec
    return {"kind": "Thing", "metadata": {"labels": {"a": "1"}}, "spec": content}


def live(manager: str = "milliner-operator", fields: dict[str, Any] = FIELDS, **spec: Any) -> dict[str, Any]:
    found = desired(**spec)
    found["spec"]["addedByDefault"] = True
    entry = {"manager": manager, "operation": "Apply", "fieldsV1": fields}
    found["metadata"] = {"labels": {"a": "1", "others": "2"}, "managedFields": [entry]}
    return found


def test_defaults_and_foreign_fields_are_no_difference() -> None:
    assert sameness.unchanged(desired(), live())


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        (desired(replicas=3), live()),
        (desired(ports=[{"containerPort": 81, "protocol": "TCP"}]), live()),
        (desired(more=1), live()),
        (desired(paused=False), live(paused=True)),
        (desired(), live(manager="somebody")),
        (desired(finalizers=[]), live()),
    ],
)
def test_differences_are_seen(wanted: dict[str, Any], there: dict[str, Any]) -> None:
    assert not sameness.unchanged(wanted, there)


@pytest.mark.parametrize(
    "more",
    [
        {"f:metadata": {"f:labels": {"f:a": {}, "f:others": {}}}},
        {"f:spec": {"f:addedByDefault": {}}},
        {"f:spec": {"f:ports": {'k:{"containerPort":9,"protocol":"TCP"}': {".": {}}}}},
        {"f:spec": {"f:finalizers": {'v:"y"': {}}}},
    ],
)
def test_a_field_that_was_applied_and_is_wanted_no_more_is_seen(more: dict[str, Any]) -> None:
    assert not sameness.unchanged(desired(), live(fields=more))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1000m", "1", True), ("1Gi", "1024Mi", True), ("0.5", "500m", True), ("1", "2", False), ("a1", "a2", False)],
)
def test_quantities_are_amounts(one: str, other: str, same: bool) -> None:
    assert sameness.unchanged(desired(cpu=one), live(cpu=other)) is same


def test_empty_and_false_values_may_be_absent() -> None:
    """An API server leaves them out: `publishNotReadyAddresses: false` was applied anew with every pass."""
    assert sameness.unchanged(desired(selector={}, ingress=[], flag=False), live())


def template(*names_of: str, tolerations: list[str], revision: str = "r1") -> dict[str, Any]:
    containers = [{"name": each, "image": each, "env": [{"name": "A", "value": "1"}]} for each in names_of]
    pod = {"containers": containers, "tolerations": [{"key": each} for each in tolerations]}
    return {"metadata": {"labels": {"milliner.dev/revision": revision}}, "spec": pod}


ENV: dict[str, Any] = {'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}}}
CONTAINERS = {'k:{"name":"milliner"}': {".": {}, "f:name": {}, "f:image": {}, "f:env": ENV}}
POD = {"f:containers": CONTAINERS, "f:tolerations": {}}
LABELS: dict[str, Any] = {"f:labels": {"f:milliner.dev/revision": {}}}
OF_TEMPLATE: dict[str, Any] = {
    "f:metadata": {"f:labels": {"f:a": {}}},
    "f:spec": {**FIELDS["f:spec"], "f:template": {"f:metadata": LABELS, "f:spec": POD}},
}


def test_what_a_webhook_adds_to_a_template_is_no_difference() -> None:
    """A sidecar, a variable and a toleration of a policy engine were applied away, in vain, with every pass."""
    wanted = desired(template=template("milliner", tolerations=["offline"]))
    there = live(fields=OF_TEMPLATE, template=template("mesh", "milliner", tolerations=["added", "offline"]))
    there["spec"]["template"]["spec"]["containers"][1]["env"].insert(0, {"name": "NODE", "value": "x"})
    assert sameness.unchanged(wanted, there)


@pytest.mark.parametrize(
    ("there", "foreign"),
    [
        (template("milliner", tolerations=["offline", "former"], revision="r0"), False),  # ours, of another revision
        (template("milliner", tolerations=["offline", "by-hand"]), True),  # whoever writes a list has it
        (template("milliner", tolerations=[]), False),
        (template("mesh", tolerations=["offline"]), False),
    ],
)
def test_what_is_not_as_it_was_applied_is_a_difference(there: dict[str, Any], foreign: bool) -> None:
    wanted = desired(template=template("milliner", tolerations=["offline"]))
    fields = copy.deepcopy(OF_TEMPLATE)
    if foreign:
        del fields["f:spec"]["f:template"]["f:spec"]["f:tolerations"]
    assert not sameness.unchanged(wanted, live(fields=fields, template=there))


def test_what_somebody_puts_beside_ours_in_a_selector_is_a_difference() -> None:
    """A label more in a Service's selector left it without endpoints, and stayed: API servers replace selectors as a
    whole, so that whoever writes one owns all of it. What admission adds while we apply stays ours."""
    fields = copy.deepcopy(FIELDS)
    fields["f:spec"]["f:selector"] = {}
    wanted, there = desired(selector={"a": "1"}), live(fields=fields, selector={"a": "1", "by-hand": "x"})
    assert sameness.unchanged(wanted, there)
    del fields["f:spec"]["f:selector"]
    assert not sameness.unchanged(wanted, there)


def test_a_changed_value_in_a_keyed_list_is_a_difference() -> None:
    wanted = desired(template=template("milliner", tolerations=["offline"]))
    there = live(fields=OF_TEMPLATE, template=template("milliner", tolerations=["offline"]))
    there["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] = "2"
    assert not sameness.unchanged(wanted, there)


def test_owning_a_field() -> None:
    assert sameness.owns(live(), "spec", "replicas")
    assert not sameness.owns(live(), "spec", "addedByDefault")
    assert not sameness.owns(live(manager="hpa"), "spec", "replicas")
