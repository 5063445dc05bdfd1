"""How a role speaks: events as JSON lines on standard output, log lines on standard error. Any thread but not two."""

from __future__ import annotations

import logging
import sys
from typing import Any

from milliner.contract import role_events


class Reporter:
    """Writes a role's events (`contract.role_events`); each line is flushed, since a runner waits for it."""

    def __init__(self, *, role: str, name: str) -> None:
        self._role = role
        self._name = name
        self._waiting = ""

    def say(self, event: role_events.RoleEventKind, **details: Any) -> None:
        """Writes one event."""
        if event is role_events.RoleEventKind.READY:
            self._waiting = ""
        line = role_events.RoleEvent(event=event, role=self._role, name=self._name, **details).to_line()
        sys.stdout.write(line + "\n")
        sys.stdout.flush()

    def waiting(self, message: str) -> None:
        """Writes a `WAITING` event unless the role has waited for the same until now."""
        if message != self._waiting:
            self._waiting = message
            self.say(role_events.RoleEventKind.WAITING, message=message)


def set_up_logging(level: str = "INFO") -> None:
    """One line per record on standard error: level, logger, message. The time is the runner's or the cluster's."""
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)-7s %(name)s: %(message)s", force=True)
    for chatty in ("httpx", "asyncio", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
