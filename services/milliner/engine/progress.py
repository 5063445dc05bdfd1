"""Whether the accelerator still finishes what it is given: the rule by which a replica calls itself hung. Torch-free.

A process whose accelerator hangs answers pings as before, so nobody else can tell it from one with a long queue. It has
the means itself: the delay model says how long a batch of x tokens takes, g(x) = a + b · x. A batch is overdue after
`OVERDUE_FACTOR` · g(x), and not before `OVERDUE_MIN_S`; the accelerator is hung when a batch is seen overdue twice in a
row, so that a process which itself stood still (a suspended virtual machine) first hears of what was finished
meanwhile. It is well again as soon as that batch ends. Without a batch nothing can hang.

Pure arithmetic on the caller's clock; the engine calls it on the event loop.
"""

from __future__ import annotations

# Arbitrary: more than a long context, a throttled GPU or a neighbour on the machine adds to a batch; less than what a
# device waits for a replica that lives (wire.client_session.Timeouts.busy_s), so that its sessions go on elsewhere.
OVERDUE_FACTOR = 10.0
OVERDUE_MIN_S = 20.0  # arbitrary: kernels that are compiled on first use, memory that is swapped in
LOOK_EVERY_S = 1.0  # arbitrary: little beside OVERDUE_MIN_S


class Progress:
    """The batch that is being computed, if there is one, and what is thought of it."""

    def __init__(self) -> None:
        self._started_s: float | None = None
        self._limit_s = 0.0
        self._overdue = False  # as of the last look
        self._hung = ""

    @property
    def hung(self) -> str:
        """Why the accelerator counts as hung, as of the last look; "" while it works or has nothing to do."""
        return self._hung

    def started(self, expected_s: float, *, now_s: float) -> None:
        """A batch was given to the accelerator; the delay model expects it to take `expected_s`."""
        self._started_s = now_s
        self._limit_s = max(OVERDUE_MIN_S, OVERDUE_FACTOR * expected_s)

    def ended(self) -> None:
        """The batch came back, well or not."""
        self._started_s = None
        self._overdue = False
        self._hung = ""

    def look(self, *, now_s: float) -> None:
        """To be called every `LOOK_EVERY_S`."""
        if self._started_s is None or now_s - self._started_s <= self._limit_s:
            return
        if self._overdue:
            self._hung = (
                f"the accelerator has not finished a batch in {now_s - self._started_s:.0f} s, "
                f"at most {self._limit_s:.0f} s were expected"
            )
        self._overdue = True
