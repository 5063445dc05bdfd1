"""Signals of a role: SIGTERM and SIGINT ask it to drain, SIGUSR1 asks for its counters. Event loop only."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; a second signal changes nothing, the starter's SIGKILL is the last word."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


def on_stats_request(tell: Callable[[], None]) -> None:
    """Calls `tell` at every SIGUSR1."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, tell)
