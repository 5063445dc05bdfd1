"""What one request needs while it runs, gathered so that the phases of a strategy can be functions of it."""

from __future__ import annotations

import dataclasses

from milliner.core import compute, ports, types
from milliner.strategies import answer as answers
from milliner.strategies import cloud_session, openings, uplink
from milliner.telemetry import record


@dataclasses.dataclass(frozen=True, slots=True)
class RequestContext:
    """One request's ports and bookkeeping. Used by one task at a time, but for the prefill's sender and receiver."""

    request: types.GenerationRequest
    device: compute.DeviceSession
    cloud: cloud_session.CloudSession
    clock: ports.Clock
    uplink: uplink.Uplink
    openings: openings.Openings
    answer: answers.Answer
    record: record.RequestRecord
