"""The generated CustomResourceDefinition: written files are current, and every node of the schema is as it must be."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from milliner.contract import checks, rules
from milliner.contract.crd import definition

ROOT = pathlib.Path(__file__).parents[4]
FILE = "inferencetopologies.milliner.dev.yaml"
DOCUMENT = definition.definition()
VERSION = DOCUMENT["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def walk(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema below a node with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from walk(node[key], f"{path}[]")


NODES = dict(walk(SCHEMA))
SPEC_NODES = {path: node for path, node in NODES.items() if path.startswith(".spec")}


@pytest.mark.parametrize("folder", ["manifests/crd", "charts/milliner-crds/templates"])
def test_the_written_definition_is_current(folder: str) -> None:
    assert (ROOT / folder / FILE).read_text(encoding="utf-8") == definition.to_yaml(), "the schema changed: make crd"


def test_yaml_says_what_the_document_says_and_helm_finds_no_template_in_it() -> None:
    assert yaml.safe_load(definition.to_yaml()) == DOCUMENT
    assert "{{" not in definition.to_yaml()


@pytest.mark.parametrize("path", [path for path in NODES if path and not path.endswith("[]")])
def test_every_field_is_described_and_typed(path: str) -> None:
    node = NODES[path]
    assert "type" in node or node.get("x-kubernetes-int-or-string")
    assert path.startswith(".metadata") or node["description"].strip().endswith(".")


@pytest.mark.parametrize("path", SPEC_NODES)
def test_every_size_is_bounded_so_that_rules_have_a_cost(path: str) -> None:
    node = SPEC_NODES[path]
    match node.get("type"):
        case "string":
            assert "maxLength" in node or "enum" in node
        case "array":
            assert "maxItems" in node
            assert "x-kubernetes-list-type" in node
        case "integer":
            assert "minimum" in node
            assert "maximum" in node
        case "object":
            assert "properties" in node or "maxProperties" in node or path.endswith(".affinity")


def test_only_affinity_keeps_unknown_fields() -> None:
    kept = {path for path, node in NODES.items() if node.get("x-kubernetes-preserve-unknown-fields")}
    assert kept == {".spec.cloud.pod.affinity", ".spec.devicePools[].pod.affinity"}


def test_no_word_of_json_schema_that_structural_schemas_refuse() -> None:
    for path, node in NODES.items():
        assert not {"$ref", "title", "const", "nullable", "anyOf", "oneOf", "allOf", "$defs"} & set(node), path


def test_a_fixed_default_is_filled_in_and_told() -> None:
    batch = NODES[".spec.cloud.engine.maxBatchTokens"]
    assert batch["default"] == 2048
    assert batch["description"] == "Token budget of one batch, over all sessions. Default: 2048. From 1 to 1048576."


def test_a_group_default_holds_all_fixed_defaults_of_its_fields() -> None:
    for path, node in SPEC_NODES.items():
        if isinstance(node.get("default"), dict):
            fixed = {name: child["default"] for name, child in node["properties"].items() if "default" in child}
            assert node["default"] == fixed, path


@pytest.mark.parametrize(
    "path",
    [
        ".spec.strategy.hat.chunking.tokens",  # set with mode Dynamic it is refused
        ".spec.strategy.hat",  # set with another type it is refused
        ".spec.cloud.replicas",  # set beside scaling it is refused
        ".spec.cloud.engine.kvCacheMebibytes",  # depends on the accelerator
        ".spec.cloud.engine.kvSwapMebibytes",  # as well
        ".spec.strategy.hat.splitLayer",  # depends on the model
    ],
)
def test_what_means_something_when_unset_is_left_unset(path: str) -> None:
    assert "default" not in NODES[path]


def test_status_is_never_filled_in() -> None:
    assert not [path for path, node in NODES.items() if path.startswith(".status") and "default" in node]


def test_every_rule_stands_in_the_schema() -> None:
    written = [entry["rule"] for node in NODES.values() for entry in node.get(checks.VALIDATIONS, ())]
    for model, table in rules.TABLE.items():
        for rule in table:
            assert rule.cel in written, model


def test_columns_and_scale_paths_name_fields_of_the_schema() -> None:
    scale = VERSION["subresources"]["scale"]
    paths = [path for _, _, path, _ in definition.COLUMNS if "conditions" not in path and "metadata" not in path]
    for path in (*paths, *scale.values()):
        assert path in NODES


def test_pools_and_conditions_merge_by_their_key() -> None:
    assert NODES[".spec.devicePools"]["x-kubernetes-list-map-keys"] == ["name"]
    assert NODES[".status.devicePools"]["x-kubernetes-list-map-keys"] == ["name"]
    assert NODES[".status.conditions"]["x-kubernetes-list-map-keys"] == ["type"]
