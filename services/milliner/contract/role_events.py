"""What a role process tells whoever started it: one JSON object per line on its standard output.

Everything else that a role says (logs, warnings) goes to standard error. The local runner and the bench read these
lines; in a cluster they land in the pod's log, where they do no harm. Torch-free.
"""

from __future__ import annotations

import enum
import json
from typing import Any

import pydantic

PORT_FIELD = "listen.port"  # the field of a `FAILED` event whose cause is that the port cannot be had
LIFELINE_VARIABLE = "MILLINER_LIFELINE_FD"  # environment: the pipe whose end of file means that the starter is gone


class RoleEventKind(enum.StrEnum):
    """The stages of a role's life, in order; `STATS` may come at any time after `READY`."""

    LOADING = "loading"  # reading the model
    SERVING = "serving"  # the port is bound; requests may still be refused
    READY = "ready"  # requests are served (device: a hidden-state round trip has succeeded)
    WAITING = "waiting"  # not ready, and why: the message says what is awaited
    STATS = "stats"  # counters, asked for with SIGUSR1
    FAILED = "failed"  # an expected error; the process exits right after
    STOPPED = "stopped"  # drained


class RoleEvent(pydantic.BaseModel):
    """One line. `field` and `message` follow `core.errors`; `data` holds what a kind adds (counters, model facts)."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    event: RoleEventKind
    role: str
    name: str
    host: str | None = None
    port: int | None = None
    field: str = ""
    message: str = ""
    data: dict[str, Any] = pydantic.Field(default_factory=dict)

    def to_line(self) -> str:
        """The event as one line of JSON, without the line break; absent members are left out."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True, exclude_defaults=True), sort_keys=True)


def parse_line(line: str) -> RoleEvent | None:
    """The event in a line of output, or None when the line is something else (a library's own print)."""
    if not line.startswith("{"):
        return None
    try:
        return RoleEvent.model_validate_json(line)
    except pydantic.ValidationError:
        return None
