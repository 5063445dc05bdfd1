"""No field is accepted in silence: each leaf of the schema changes what is started here, is refused, or is noted.

The schema is walked, so that a new field cannot be forgotten: it needs a value below if its type gives none.
"""

from __future__ import annotations

import copy
import enum
import json
import pathlib
import types
import typing
from collections.abc import Iterator
from typing import Any

import annotated_types
import pydantic
import pytest
from pydantic.fields import FieldInfo
from tests.unit.milliner.contract import documents_of

from milliner.contract import availability, errors, plan, plan_whole, topology
from milliner.local import model_facts

# Kubernetes' own part of the object: nothing is asked for with it.
BOOKKEEPING = ("metadata.namespace", "metadata.labels", "metadata.annotations", "status", "apiVersion", "kind")
# What has to stand beside a field, so that it alone decides whether anything changes.
BESIDE: dict[str, dict[str, Any]] = {
    "spec.strategy.uShape": {"spec.strategy": {"type": "UShape", "uShape": {"heads": {"source": "drafter"}}}},
    "spec.strategy.hat": {"spec.strategy": {"type": "Hat", "hat": {}}},
    "spec.strategy.pdDevice": {"spec.strategy": {"type": "PDDevice", "pdDevice": {}}},
    "spec.strategy.hat.chunking.tokens": {"spec.strategy.hat.chunking": {"mode": "Fixed"}},
    "spec.strategy.uShape.chunking.tokens": {"spec.strategy.uShape.chunking": {"mode": "Fixed"}},
    "spec.cloud.scaling": {"spec.cloud.scaling": {"maxReplicas": 9}},
    "spec.model.credentialsSecretRef": {"spec.model.credentialsSecretRef": {"name": "a", "key": "b"}},
    "spec.tls.issuerRef": {"spec.tls": {"mode": "CertManager", "issuerRef": {"name": "ca"}}},
    "spec.devicePools[].clusterSecretRef": {"spec.devicePools[].clusterSecretRef": {"name": "a"}},
}
VALUES: dict[str, Any] = {
    "metadata.name": "other",
    "spec.model.servedName": "other",
    "spec.model.source": "model2",
    "spec.model.digest": "sha256:" + "0" * 64,
    "spec.strategy.type": "UShape",
    "spec.strategy.hat.splitLayer": 4,  # not the drafter's: refused
    "spec.strategy.hat.adapter.source": "drafter2",
    "spec.strategy.uShape.heads.source": "drafter2",
    "spec.devicePools[].name": "other",
    "spec.devicePools[].model": {"source": "model2"},
    "spec.cloud.engine.external": {"url": "http://somewhere:8000/v1"},
    "spec.tls.mode": "CertManager",  # Disabled is what happens here anyway
    "spec.tls.issuerRef.kind": "ClusterIssuer",
    "spec.devicePools[].rollout.maxUnavailable": "20%",
    "spec.devicePools[].rollout.progressDeadlineSeconds": 60,
    "spec.tracing.otlpEndpoint": "http://collector:4317",
}


def leaves(model: type[pydantic.BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field that is no group, with its path; lists are written with []."""
    for name, info in model.model_fields.items():
        here = f"{path}.{info.alias or name}".lstrip(".")
        group = model_in(info.annotation)
        if group is None or here in VALUES:
            yield here, info
        else:
            is_list = typing.get_origin(info.annotation) is tuple
            yield from leaves(group, here + ("[]" if is_list else ""))


def model_in(annotation: object) -> type[pydantic.BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, pydantic.BaseModel) else None
    return next((found for found in map(model_in, typing.get_args(annotation)) if found is not None), None)


def another_value(info: FieldInfo) -> Any:
    """A valid value that is not the default."""
    literals = literals_in(info.annotation)
    if literals:
        return next(value for value in literals if value != info.default)
    (kind,) = plain_types(info.annotation) - {types.NoneType}
    if issubclass(kind, enum.Enum):
        return [member.value for member in kind if member is not info.default][-1]
    if kind is int:
        low: Any = next(bound.ge for bound in bounds(info) if isinstance(bound, annotated_types.Ge))
        high: Any = next(bound.le for bound in bounds(info) if isinstance(bound, annotated_types.Le))
        return min(info.default + 1 if isinstance(info.default, int) else low + 2, high)
    if kind is dict:
        return {"key": "value"}
    if kind is str:
        return "text"
    raise AssertionError(f"give a value of {kind} in VALUES")


def bounds(info: FieldInfo) -> list[Any]:
    found = [*info.metadata]
    for argument in typing.get_args(info.annotation):
        found += getattr(argument, "__metadata__", ())
    return found + [inner for nested in found for inner in getattr(nested, "metadata", [])]


def literals_in(annotation: object) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return next((found for found in map(literals_in, typing.get_args(annotation)) if found), ())


def plain_types(annotation: object) -> set[type]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return plain_types(typing.get_args(annotation)[0])
    if origin in (dict, tuple):
        return {origin}
    if isinstance(annotation, type):
        return {annotation}
    if annotation is Any:
        return set()
    return {found for argument in typing.get_args(annotation) for found in plain_types(argument)}


LEAVES = {path: info for path, info in leaves(topology.InferenceTopology) if path not in BOOKKEEPING}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("files")
    for name in ("model", "model2"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"num_hidden_layers": 8}))
    for name in ("drafter", "drafter2"):
        (folder / name).mkdir()
        (folder / name / "adapter.json").write_text(json.dumps({"split_layer": 3}))
    return folder


def parse(changes: dict[str, Any]) -> topology.InferenceTopology:
    """The smallest document with these values; a list on the way is made with one item."""
    document = copy.deepcopy(documents_of.SMALLEST)
    for path, value in copy.deepcopy(changes).items():
        *parents, last = path.split(".")
        node: dict[str, Any] = document
        for part in parents:
            inner = node.setdefault(part.removesuffix("[]"), [{}] if part.endswith("[]") else {})
            node = inner[0] if part.endswith("[]") else inner
        node[last] = value
    return topology.parse(document)


def outcome(changes: dict[str, Any], folder: pathlib.Path) -> object:
    """All that is started here of a topology, as far as the topology decides it; or the refusal."""
    try:
        wanted = parse(changes)
        clouds, devices = planned(wanted, folder)
    except errors.SpecInvalid as error:
        return str(error)
    return clouds, devices, plan.device_places(wanted), wanted.served_name, wanted.name


def planned(wanted: topology.InferenceTopology, folder: pathlib.Path) -> tuple[object, object]:
    """The configurations of the cloud's processes and of the devices, the ports being always the same."""
    if wanted.spec.strategy.type in plan_whole.TYPES:
        facts = model_facts.read_whole(wanted, relative_to=(folder,))
        whole = plan_whole.resolve(
            wanted, facts=facts, pool_facts=model_facts.read_pools(wanted, relative_to=(folder,))
        )
        count = wanted.spec.cloud.desired_replicas if whole.has_cloud else 0
        return plan_whole.prefill_configs(whole, ports=range(1, 1 + count)), plan_whole.device_configs(
            whole, cloud_endpoints=["host:1"]
        )
    resolved = plan.resolve(wanted, facts=model_facts.read(wanted, relative_to=(folder,)))
    ports = range(1, 1 + len(plan.cloud_places(wanted)))
    return plan.cloud_configs(resolved, ports=ports), plan.device_configs(resolved, cloud_endpoints=["host:1"])


def noted(changes: dict[str, Any], path: str) -> bool:
    try:
        wanted = parse(changes)
    except errors.SpecInvalid:
        return False
    fields = [note.split(" ", 1)[0] for note in availability.notes(wanted)]
    return any(path == f"spec.{field}" or path.startswith((f"spec.{field}.", f"spec.{field}[]")) for field in fields)


@pytest.mark.parametrize("path", LEAVES)
def test_a_field_has_an_effect_is_refused_or_is_noted(path: str, folder: pathlib.Path) -> None:
    before: dict[str, Any] = {"spec.model": {"source": "model"}}
    before["spec.strategy.hat"] = {"adapter": {"source": "drafter"}}
    for prefix, beside in BESIDE.items():
        if path == prefix or path.startswith(f"{prefix}."):
            before |= beside
    if any(key == "spec.strategy" for key in before):
        del before["spec.strategy.hat"]
        if path.startswith("spec.strategy.hat."):
            before["spec.strategy.hat.adapter"] = {"source": "drafter"}
    must_count(path, before, folder)


@pytest.mark.parametrize("strategy", ["PDDevice", "CloudOnly", "DeviceOnly"])
@pytest.mark.parametrize("path", [path for path in LEAVES if not path.startswith("spec.strategy.")])
def test_and_with_whole_models(path: str, strategy: str, folder: pathlib.Path) -> None:
    before: dict[str, Any] = {"spec.model": {"source": "model"}, "spec.strategy": {"type": strategy}}
    for prefix, beside in BESIDE.items():
        if path == prefix or path.startswith(f"{prefix}."):
            before |= beside
    must_count(path, before, folder)


def must_count(path: str, before: dict[str, Any], folder: pathlib.Path) -> None:
    value = VALUES[path] if path in VALUES else another_value(LEAVES[path])
    after = {**before, path: value}
    if noted(after, path):
        return
    found = outcome(after, folder)
    assert found != outcome(before, folder), f"{path} changes nothing and no note says so"
    if isinstance(found, str):
        assert path.rsplit(".", 1)[-1] in found, f"refused for another reason: give {path} a value in VALUES"


def test_what_the_device_is_told_but_does_not_use_is_noted() -> None:
    wanted = topology.parse(documents_of.changed({"spec.objectives": {"timeToFirstTokenMilliseconds": 100}}))
    assert availability.notes(wanted) == ["objectives has no effect here: only PDDevice aims at them"]
    handover = {"spec.objectives": {"timeToFirstTokenMilliseconds": 100}, "spec.strategy": {"type": "PDDevice"}}
    assert availability.notes(topology.parse(documents_of.changed(handover))) == []


def test_the_smallest_topology_needs_no_note() -> None:
    assert availability.notes(topology.parse(documents_of.SMALLEST)) == []
    plain_text = topology.parse(documents_of.changed({"spec.tls": {"mode": "Disabled"}}))
    assert availability.notes(plain_text) == []
