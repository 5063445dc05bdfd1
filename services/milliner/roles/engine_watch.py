"""Watches whether a cloud replica's accelerator hangs, and tells the role whenever that changes. Event loop only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from milliner.core import ports
from milliner.engine import progress


async def keep(hung: Callable[[], str], *, clock: ports.Clock, on_change: Callable[[], Awaitable[None]]) -> None:
    """Until cancelled; `hung` says in words that the accelerator hangs, or "" (`engine.Engine.hung`)."""
    known = False
    while True:
        await clock.sleep(progress.LOOK_EVERY_S)
        if bool(hung()) != known:
            known = not known
            await on_change()
