"""Why a container is not even created: what its pod mounts is missing. Kubelets write that into Events only.

Asked for one pod of a role that is starting and about which nothing else is known, so that it costs one call.
"""

from __future__ import annotations

from collections.abc import Sequence

from milliner_operator import kinds
from milliner_operator.api import Api
from milliner_operator.conditions import Reason
from milliner_operator.observed import Manifest, Trouble

_EVENTS = 10  # arbitrary: one for each volume of a pod, and again for each change of words
_TIMES = 2  # a cache of the kubelet's that is filled late fails once
_CREATING = ("ContainerCreating", "PodInitializing")
_MESSAGE_CHARACTERS = 400


async def trouble(client: Api, namespace: str, pods: Sequence[Manifest]) -> Trouble | None:
    """What the first of `pods` whose containers are being created fails to mount."""
    name = next((each["metadata"]["name"] for each in pods if _is_creating(each)), None)
    if name is None:
        return None
    fields = f"involvedObject.kind=Pod,involvedObject.name={name},reason=FailedMount"
    events = await client.list(kinds.EVENT, namespace, fields=fields, limit=_EVENTS)
    failing = [each for each in events if _count(each) >= _TIMES]
    if not failing:
        return None
    latest = max(failing, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    message = f"pod {name}: {str(latest.get('message') or 'a volume cannot be mounted').strip()}"
    return Trouble(Reason.VOLUME_NOT_MOUNTED, message[:_MESSAGE_CHARACTERS])


def _is_creating(pod: Manifest) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    reasons = (((each.get("state") or {}).get("waiting") or {}).get("reason") for each in statuses)
    return "deletionTimestamp" not in pod["metadata"] and any(each in _CREATING for each in reasons)


def _count(event: Manifest) -> int:
    return int(event.get("count") or (event.get("series") or {}).get("count") or 1)
