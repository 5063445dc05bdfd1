"""How long a thread may compute before another one has its turn on the same core: short for event loops.

An event loop that hands a call to the compute thread beside it is put aside for that thread's whole time slice where
cores are few: some 3 ms on Linux, in which no token is shown. A thread whose own slice is shorter is not. Linux takes
such wishes from 6.12 on (`sched_setattr(2)`, custom slices of the EEVDF scheduler); elsewhere nothing changes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_EVENT_LOOP_NS = 100_000  # the least that Linux takes
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # asm/unistd_64.h, asm-generic/unistd.h
_SCHED_ATTR = struct.Struct("=IIQiIQQQII")  # linux/sched/types.h: size, policy, flags, nice, priority, runtime, …


def for_event_loop() -> bool:
    """Short slices for the calling thread, and for threads that it starts; whether the system has taken the wish."""
    return _wish(_EVENT_LOOP_NS)


def for_compute() -> bool:
    """The system's usual slices for the calling thread, whatever the one that started it has."""
    return _wish(0)


def _wish(slice_ns: int) -> bool:
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, 0)  # of the calling thread; it is set anew with the slice
    wish = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, niceness, 0, slice_ns, 0, 0, 0, 0)
    try:
        return bool(ctypes.CDLL(None).syscall(number, 0, ctypes.create_string_buffer(wish, len(wish)), 0) == 0)
    except (OSError, AttributeError):  # a C library without `syscall`
        return False
