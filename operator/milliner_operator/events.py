"""Kubernetes Events about a topology: one when Ready's status or reason changes, none for a pass without change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from milliner_operator import errors, kinds
from milliner_operator.api import Api
from milliner_operator.children import common
from milliner_operator.conditions import Reason
from milliner_operator.observed import Manifest

_logger = logging.getLogger(__name__)
# of every rollout that goes well, and of what was asked for
_PASSING = (Reason.UPDATING, Reason.PODS_NOT_READY, Reason.SCALED_TO_ZERO)
_MESSAGE_BYTES = 1024  # the API server refuses more


async def post_transition(
    client: Api, document: Manifest, *, before: Mapping[str, Any], after: Mapping[str, Any], now: str
) -> None:
    """Posts the transition, if there is one; an Event that cannot be posted is logged and stops nothing."""
    event = of_transition(document, before=before, after=after, now=now)
    if event is None:
        return
    try:
        await client.create(kinds.EVENT, event)
    except errors.ApiError as error:
        metadata = document["metadata"]
        _logger.warning("event of %s/%s not posted: %s", metadata["namespace"], metadata["name"], error)


def of_transition(
    document: Manifest, *, before: Mapping[str, Any], after: Mapping[str, Any], now: str
) -> Manifest | None:
    """The Event of a change of Ready's status or reason; None without such. Pure."""
    old, new = _ready(before), _ready(after)
    if (old.get("status"), old.get("reason")) == (new.get("status"), new.get("reason")):
        return None
    metadata = document["metadata"]
    return {
        "apiVersion": kinds.EVENT.api_version,
        "kind": kinds.EVENT.kind,
        "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": kinds.TOPOLOGY.api_version,
            "kind": kinds.TOPOLOGY.kind,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": "Warning" if new.get("status") == "False" and new.get("reason") not in _PASSING else "Normal",
        "reason": new.get("reason", ""),
        "message": (new.get("message") or f"Ready is {new.get('status')}")
        .encode()[:_MESSAGE_BYTES]
        .decode("utf-8", "ignore"),
        "source": {"component": common.MANAGED_BY},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _ready(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((each for each in status.get("conditions") or () if each.get("type") == "Ready"), {})
