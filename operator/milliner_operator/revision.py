"""The revision of a role: a hash of its pod template and configuration, stamped on the template. Pure.

The configuration lies in a ConfigMap of the revision's own, which the stamped template names: a pod that restarts
while a rollout hangs reads what it was made for.
"""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

from milliner.contract import names
from milliner_operator.children import pod

_CHARACTERS = 8


def of(template: dict[str, Any], config: str) -> str:
    """The revision: the same for the same template and configuration, whatever happened in between."""
    text = json.dumps([template, config], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_CHARACTERS]


def config_map_name(workload: str, revision: str) -> str:
    """Name of the ConfigMap that holds the configuration of a workload's revision."""
    return names.child_name(workload, revision)


def stamp(template: dict[str, Any], config: str) -> tuple[dict[str, Any], str]:
    """A copy of the template, whose configuration's volume names the workload, with its revision as a label and the
    revision's ConfigMap in that volume; and the revision."""
    found = of(template, config)
    stamped = copy.deepcopy(template)
    stamped["metadata"]["labels"][names.LABEL_REVISION] = found
    volume = next(each for each in stamped["spec"]["volumes"] if each["name"] == pod.CONFIG_VOLUME)
    volume["configMap"]["name"] = config_map_name(volume["configMap"]["name"], found)
    return stamped, found
