"""What a role's accelerator has computed since it became ready, for a runner or bench that asks with SIGUSR1."""

from __future__ import annotations

from milliner.engine import executor


class ComputeCounters:
    """Differences to the moment of construction, so that loading and warm-up are left out."""

    def __init__(self, worker: executor.ComputeExecutor) -> None:
        self._worker = worker
        self._calls, self._overruns, self._busy_s = worker.calls, worker.overruns, worker.busy_s

    def read(self) -> dict[str, float]:
        """Calls, those that took longer than their modelled duration, and busy seconds (padding included)."""
        return {
            "calls": self._worker.calls - self._calls,
            "overruns": self._worker.overruns - self._overruns,
            "busy_s": self._worker.busy_s - self._busy_s,
        }
