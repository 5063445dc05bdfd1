"""The production clock: the event loop's monotonic time. Simulators and tests bring their own `ports.Clock`."""

from __future__ import annotations

import asyncio
import time


class LoopClock:
    """`ports.Clock` over real time; `now` is what asyncio's own timers use."""

    def now(self) -> float:
        """Seconds since an arbitrary moment; only differences mean anything."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Waits at least `seconds`."""
        await asyncio.sleep(seconds)
