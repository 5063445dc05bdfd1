"""Topologies drawn at random from the definition's own schema: every field, its bounds, its enumerations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from milliner.contract import errors, names, topology
from milliner.contract.crd import definition

# What the schema bounds by rules on text, by the field's name: right and wrong ones.
_TEXTS = {
    "source": (
        "builtin://demo",
        "hf://org/name@main",
        "pvc://claim/a",
        "https://host/a",
        "/models/a",
        "hf://org",
        "x://y",
    ),
    "digest": ("sha256:" + "0a" * 32, "sha256:" + "0A" * 32),
    "url": ("http://vllm:8000/v1", "vllm:8000"),
    "otlpEndpoint": ("http://collector:4317", "https://collector", "collector"),
    "name": ("a", "b", "orin-1", "Orin"),
    "kind": ("Issuer", "ClusterIssuer", "AWSPCAIssuer", "issuer"),
    "group": ("cert-manager.io", "awspca.cert-manager.io", "A.b"),
}
_AMOUNTS = (1, "2", "500m", "4Gi", "1.5", "1e3", "two")
_LABELS = ("jetson-agx-orin", "", "a_b.C", "-a")
_OPTIONAL_SHARE = 0.25  # arbitrary: small enough that a fair share of what is drawn breaks no rule


def draw(seed: int) -> Iterator[dict[str, Any]]:
    """Documents without end; types and bounds are kept, rules are not."""
    generator = random.Random(seed)
    [version] = definition.definition()["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    while True:
        yield {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": "drawn"},
            "spec": _value(schema, "spec", generator),
        }


def split(seed: int, *, each: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """As many documents that `topology.parse` takes and that it refuses."""
    taken: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for document in draw(seed):
        try:
            topology.parse(document)
        except errors.SpecInvalid:
            refused.append(document)
        else:
            taken.append(document)
        if min(len(taken), len(refused)) >= each:
            break
    return taken[:each], refused[:each]


def _value(node: dict[str, Any], name: str, generator: random.Random) -> Any:
    if "enum" in node:
        return generator.choice(node["enum"])
    if node.get("x-kubernetes-int-or-string"):
        return generator.choice(_AMOUNTS)
    match node["type"]:
        case "integer":
            low, high = node["minimum"], node["maximum"]
            return generator.choice((low, high, node.get("default", low), generator.randint(low, high)))
        case "string":
            return generator.choice(_TEXTS.get(name, ("text",)))
        case "array":
            return [_value(node["items"], name, generator) for _ in range(generator.choice((0, 1, 1, 2)))]
        case _:
            return _group(node, generator)


def _group(node: dict[str, Any], generator: random.Random) -> dict[str, Any]:
    if "additionalProperties" in node:
        values = node["additionalProperties"]
        amount = values.get("x-kubernetes-int-or-string")
        if amount:
            return {name: _value(values, "", generator) for name in ("cpu", "memory") if generator.random() < 0.6}
        return {"role": generator.choice(_LABELS)}
    required = set(node.get("required", ()))
    return {
        name: _value(child, name, generator)
        for name, child in node.get("properties", {}).items()
        if name in required or name == "devicePools" or generator.random() < _OPTIONAL_SHARE
    }
