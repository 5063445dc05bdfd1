"""The whole CustomResourceDefinition: names, columns of `kubectl get`, subresources and schema, as YAML. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from milliner.contract import names, status, topology
from milliner.contract import spec as spec_module
from milliner.contract.crd import schema as schemas

HEAD = "# Generated from the topology's schema by `milliner crd` (make crd); do not edit.\n"
_READY = '.status.conditions[?(@.type=="Ready")]'
# (name, type, path, shown only with -o wide)
COLUMNS = (
    ("Strategy", "string", ".spec.strategy.type", False),
    ("Ready", "string", f"{_READY}.status", False),
    ("Reason", "string", f"{_READY}.reason", False),
    ("Cloud", "string", ".status.summary.cloud", False),
    ("Devices", "string", ".status.summary.devices", False),
    ("Model", "string", ".spec.model.source", True),
    ("Revision", "string", ".status.cloud.revision", True),
    ("TTFT-ms", "integer", ".status.probe.timeToFirstTokenMilliseconds", True),
    ("Age", "date", ".metadata.creationTimestamp", False),
)


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition as a document."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{names.PLURAL}.{names.GROUP}",
            # Helm's word for: uninstalling the chart keeps this, and with it every topology.
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {"app.kubernetes.io/name": "milliner", "app.kubernetes.io/part-of": "milliner"},
        },
        "spec": {
            "group": names.GROUP,
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": ["all"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def to_yaml() -> str:
    """`definition` as it stands in manifests/ and in the chart."""
    return HEAD + yaml.dump(definition(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


def _version() -> dict[str, Any]:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}
            for name, kind, path, wide in COLUMNS
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.cloud.replicas",
                "statusReplicasPath": ".status.cloud.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root()},
    }


def _root() -> dict[str, Any]:
    """The object: of its metadata a CRD may restrict only the name."""
    name = schemas.structural(topology.Metadata)["properties"]["name"]
    return {
        "description": topology.InferenceTopology.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": f"Always {names.API_VERSION}.", "type": "string"},
            "kind": {"description": f"Always {names.KIND}.", "type": "string"},
            "metadata": {"type": "object", "properties": {"name": name}},
            "spec": schemas.structural(spec_module.TopologySpec),
            "status": schemas.structural(status.TopologyStatus, wanted=False),
        },
    }


class _Plain(yaml.SafeDumper):
    """Writes no anchors: a schema that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
