"""Reading files: several documents, standard input, other kinds, broken YAML; every message names file and line."""

from __future__ import annotations

import io
import json
import pathlib

import pytest
import yaml
from tests.unit.milliner.contract import documents_of

from milliner.contract import documents, errors
from milliner.local import launches

SAMPLES = sorted((pathlib.Path(__file__).parents[4] / "manifests" / "samples").glob("*.yaml"))
TEXT = yaml.safe_dump(documents_of.SMALLEST, sort_keys=False)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_sample_loads(path: pathlib.Path) -> None:
    assert documents.load_topologies(str(path))


def test_there_are_samples() -> None:
    assert {"hat.yaml", "ushape.yaml", "hat-minimal.yaml"} <= {path.name for path in SAMPLES}


def test_each_sample_is_in_their_readme() -> None:
    readme = (SAMPLES[0].parent / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in SAMPLES if f"({path.name})" not in readme] == []


def test_the_built_in_demo_is_the_hat_sample() -> None:
    sample = next(path for path in SAMPLES if path.name == "hat.yaml")
    assert launches.demo_topologies() == documents.load_topologies(str(sample))


def test_several_documents_and_empty_ones_in_one_file(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(f"---\n{TEXT}\n---\n# nothing\n---\n{TEXT.replace('name: chat', 'name: other')}")
    assert [each.name for each in documents.load_topologies(str(file))] == ["chat", "other"]


def test_a_kubernetes_list_is_its_items() -> None:
    items = [documents_of.SMALLEST, documents_of.changed({"metadata.name": "other"})]
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items})
    assert [each.name for each in documents.parse_topologies(text, origin="t.yaml")] == ["chat", "other"]


def test_json_and_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(documents_of.SMALLEST)))
    assert documents.load_topologies("-")[0].name == "chat"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.yaml: holds no document: write one of kind InferenceTopology"),
        ("a: [", "t.yaml: line 1: not YAML"),
        ("- a", "t.yaml: line 1: found a list: start with apiVersion: milliner.dev/v1alpha1"),
        ("kind: Pod", "t.yaml: line 1: found kind Pod: only kind InferenceTopology is taken here"),
        ("apiVersion: x\nkind: InferenceTopology", "found apiVersion x: write apiVersion: milliner.dev/v1alpha1"),
        ("spec: {}\nspec: {}", "t.yaml: line 2: the field spec is written twice: keep one"),
        ("a: !!python/object/apply:os.system [ls]", "t.yaml: line 1: not plain YAML"),
        (f"{TEXT}---\n{TEXT}", "the topology chat stands here twice: give each its own name"),
    ],
)
def test_refused_documents(text: str, message: str) -> None:
    with pytest.raises(errors.DocumentError) as caught:
        documents.parse_topologies(text, origin="t.yaml")
    assert message in str(caught.value)


def test_problems_carry_the_line_of_the_field() -> None:
    text = TEXT.replace("type: Hat", "type: Hat\n    hat:\n      chunking: {minTokens: 3, maxTokens: 2}")
    with pytest.raises(errors.SpecInvalid) as caught:
        documents.parse_topologies(text, origin="t.yaml")
    line = next(number for number, each in enumerate(text.splitlines(), 1) if "chunking" in each)
    assert str(caught.value) == (
        f"t.yaml: line {line}: spec.strategy.hat.chunking: chunking.minTokens (3) is above maxTokens (2)"
    )


def test_missing_file_and_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.DocumentError, match="no such file"):
        documents.load_topologies(str(tmp_path / "none.yaml"))
    with pytest.raises(errors.DocumentError, match="is a folder"):
        documents.load_topologies(str(tmp_path))


def test_every_group_of_fields_stands_in_the_cluster_sample() -> None:
    sample = next(path for path in SAMPLES if path.name == "hat-kubernetes.yaml")
    spec = documents.load_topologies(str(sample))[0].spec
    assert spec.model_fields_set == set(type(spec).model_fields)
