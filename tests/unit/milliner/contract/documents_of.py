"""Documents that tests start from: the smallest valid topology, and one changed at a path."""

from __future__ import annotations

import copy
from typing import Any

SMALLEST: dict[str, Any] = {
    "apiVersion": "milliner.dev/v1alpha1",
    "kind": "InferenceTopology",
    "metadata": {"name": "chat"},
    "spec": {
        "model": {"source": "builtin://demo"},
        "strategy": {"type": "Hat"},
        "devicePools": [{"name": "local"}],
    },
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The smallest document with values set at dotted paths; `devicePools.0.api.port` reaches into lists."""
    document = copy.deepcopy(SMALLEST)
    for path, value in changes.items():
        *parents, last = path.split(".")
        node: Any = document
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[last] = value
    return document
