"""Kubernetes Events about a topology: one when Ready's status or reason changes or when something is left elsewhere.

A pass without change posts none. What goes wrong is told together with what to do about it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from milliner_operator import errors, kinds
from milliner_operator.api import Api
from milliner_operator.children import common
from milliner_operator.conditions import GUIDES, Reason, Type
from milliner_operator.observed import Manifest

_logger = logging.getLogger(__name__)
# of every rollout that goes well, and of what was asked for
_PASSING = (Reason.UPDATING, Reason.PODS_NOT_READY, Reason.SCALED_TO_ZERO)
_TOLD = (Type.READY, Type.CLEANUP_PENDING)
_MESSAGE_BYTES = 1024  # the API server refuses more


async def post_transitions(
    client: Api, document: Manifest, *, before: Mapping[str, Any], after: Mapping[str, Any], now: str
) -> None:
    """Posts the transitions, if there are any; an Event that cannot be posted is logged and stops nothing."""
    for event in of_transitions(document, before=before, after=after, now=now):
        try:
            await client.create(kinds.EVENT, event)
        except errors.ApiError as error:
            metadata = document["metadata"]
            _logger.warning("event of %s/%s not posted: %s", metadata["namespace"], metadata["name"], error)


def of_transitions(
    document: Manifest, *, before: Mapping[str, Any], after: Mapping[str, Any], now: str
) -> list[Manifest]:
    """The Events of what changed: status or reason of Ready, the beginning of CleanupPending. Pure."""
    found = []
    for kind in _TOLD:
        old, new = _condition(before, kind), _condition(after, kind)
        if new and (old.get("status"), old.get("reason")) != (new.get("status"), new.get("reason")):
            found.append(_event(document, new, now=now))
    reasons = [each["reason"] for each in found]
    return [each for index, each in enumerate(found) if each["reason"] not in reasons[:index]]


def _event(document: Manifest, condition: Mapping[str, Any], *, now: str) -> Manifest:
    metadata, reason = document["metadata"], Reason(condition["reason"])
    bad = (condition["status"] == "False") == (condition["type"] == Type.READY.value) and reason not in _PASSING
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
        "type": "Warning" if bad else "Normal",
        "reason": reason.value,
        "message": _message(condition, remedy=GUIDES[reason].remedy if bad else ""),
        "source": {"component": common.MANAGED_BY},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _message(condition: Mapping[str, Any], *, remedy: str) -> str:
    """What is the matter, cut to what the API server takes, and what to do."""
    told = str(condition.get("message") or f"{condition['type']} is {condition['status']}")
    after = f". What to do: {remedy}" if remedy else ""
    room = _MESSAGE_BYTES - len(after.encode())
    return told.removesuffix(".").encode()[:room].decode("utf-8", "ignore") + after


def _condition(status: Mapping[str, Any], kind: Type) -> Mapping[str, Any]:
    return next((each for each in status.get("conditions") or () if each.get("type") == kind.value), {})
