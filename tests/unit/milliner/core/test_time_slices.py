"""Short time slices for event loops."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import threading
from collections.abc import Callable

import pytest

from milliner.core import time_slices


def slice_ns() -> int | None:
    """The calling thread's, where the kernel tells."""
    told = pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/sched")
    found = re.search(r"^se\.slice\s*:\s*(\d+)", told.read_text(), re.MULTILINE) if told.exists() else None
    return int(found[1]) if found else None


def in_a_thread(work: Callable[[], None]) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def test_a_wish_leaves_niceness_and_policy_as_they_are() -> None:
    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + 1)
        before = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)
        time_slices.for_event_loop()
        assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == before
        time_slices.for_compute()
        assert (os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)) == before

    in_a_thread(work)


def test_slices_become_short_and_usual_again() -> None:
    def work() -> None:
        if not time_slices.for_compute() or (usual := slice_ns()) is None:
            pytest.skip("this system takes or tells no slices")
        assert usual > 100_000
        assert time_slices.for_event_loop()
        assert slice_ns() == 100_000
        assert time_slices.for_compute()
        assert slice_ns() == usual

    in_a_thread(work)


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not time_slices.for_event_loop()
