"""Ends a role process whose runner is gone, so that even `kill -9` of `milliner up` leaves no orphan.

Two means, since neither covers all cases. The runner holds the writing end of a pipe that every child inherits for
reading: when the runner dies, however, the kernel closes its end and the child reads end of file (works on every
Unix, and if the runner died before the child looked). On Linux the kernel also sends SIGKILL on the death of the
parent (`PR_SET_PDEATHSIG`), which reaches a child that is stuck. Called once, before anything heavy is imported;
starts one daemon thread.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping

from milliner.contract import role_events

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_GRACE_S = 3.0  # arbitrary: time to drain once the runner is gone


def hold(environ: Mapping[str, str]) -> bool:
    """Ties this process to its runner's life, if `environ` names a lifeline; returns whether it does."""
    value = environ.get(role_events.LIFELINE_VARIABLE)
    if not value:
        return False
    fd = int(value)
    os.fstat(fd)  # a descriptor that is not there raises here, at start, rather than in the thread
    os.set_inheritable(fd, False)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    threading.Thread(target=_watch, args=(fd,), name="lifeline", daemon=True).start()
    return True


def _watch(fd: int) -> None:
    while os.read(fd, 1):  # nothing is ever written: this returns at end of file only
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_S)
    os._exit(1)
