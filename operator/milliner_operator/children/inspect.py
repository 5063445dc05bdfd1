"""The inspect Job: reads what the operator cannot see and ends with one line of JSON. Pure."""

from __future__ import annotations

from typing import Any

from milliner_operator import kinds
from milliner_operator.children import common

_BACKOFF_LIMIT = 3
_DEADLINE_S = 1800  # arbitrary: hashing the largest models over a network takes minutes


def job(scope: common.Scope, name: str, *, template: dict[str, Any]) -> dict[str, Any]:
    """The Job; its pods are kept until the operator has read their message and deletes it."""
    template["spec"]["restartPolicy"] = "Never"
    spec = {
        "backoffLimit": _BACKOFF_LIMIT,
        "activeDeadlineSeconds": _DEADLINE_S,
        "completions": 1,
        "parallelism": 1,
        "template": template,
    }
    return common.manifest(scope, kinds.JOB, name, role=common.ROLE_INSPECT, spec=spec)
