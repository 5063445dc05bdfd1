"""Why a workload has no pods at all: its controller may not create them. Controllers of DaemonSets and Jobs write that
into Events only, unlike those of Deployments. Asked only where no pod is there, so that it costs one call."""

from __future__ import annotations

from milliner_operator import kinds
from milliner_operator.api import Api
from milliner_operator.conditions import Reason
from milliner_operator.observed import Ref, Trouble

_EVENTS = 50  # arbitrary: one for each name that was tried


async def trouble(client: Api, namespace: str, workload: Ref) -> Trouble | None:
    """The latest refusal of pods of `workload`; None where none is known."""
    kind, name = workload
    fields = f"involvedObject.kind={kind},involvedObject.name={name},reason=FailedCreate"
    events = await client.list(kinds.EVENT, namespace, fields=fields, limit=_EVENTS)
    if not events:
        return None
    latest = max(events, key=lambda each: str(each.get("lastTimestamp") or each.get("eventTime") or ""))
    return Trouble(Reason.POD_REFUSED, str(latest.get("message") or "its pods are refused"))
