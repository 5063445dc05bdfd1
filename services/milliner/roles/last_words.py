"""What a container says when it ends: Kubernetes shows it where it tells of the pod. Torch-free; called once."""

from __future__ import annotations

import logging
import pathlib

TERMINATION_LOG = pathlib.Path("/dev/termination-log")  # where Kubernetes takes a container's last words from
_MOST_CHARACTERS = 1000  # at four bytes each, below the 4096 bytes that Kubernetes reads
_LOGGER = logging.getLogger("milliner.roles")


def leave(message: str) -> None:
    """Writes why the role ends, in one line; outside a container there is nobody to read it, and no file."""
    out = TERMINATION_LOG
    if not out.exists():
        return
    try:
        out.write_text(" ".join(message.split())[:_MOST_CHARACTERS], encoding="utf-8")
    except OSError as error:  # the log has said it already
        _LOGGER.warning("%s cannot be written: %s", out, error.strerror or error)
