"""How long a device waits for a connection, and for the answer to a ping: longer where its link is known to be slow.

Connecting takes two or three round trips, a ping one. On a link of a second's round trip the deadlines that find a lost
replica at once on any other link would end every attempt and every session. So they grow when an attempt ends by its
deadline while no replica answers at all, and follow what the last new connection took. Where one replica answers they
stay as they are, and another one that is dead costs no more than before. One per device, shared by what it speaks to.
"""

from __future__ import annotations

from milliner.wire import options

_MOST_S = 8.0  # arbitrary: links of three seconds' round trip can be used, a lost network is still found to be back
_ROOM = 2.0  # how much longer than the last one a new connection may take (arbitrary)
_LATE = 0.9  # share of a deadline after which a failure was one of time, not a refusal (arbitrary)


class Patience:
    """The deadlines of now; `connect_s` is that of a connection on a link of which nothing is known."""

    def __init__(self, connect_s: float) -> None:
        self._least_s = connect_s
        self._most_s = max(connect_s, _MOST_S)
        self.connect_s = connect_s

    @property
    def scale(self) -> float:
        """How much slower than usual the link is taken for; 1 or more."""
        return self.connect_s / self._least_s

    def pings(self, usual: options.Keepalive) -> options.Keepalive:
        """How long the answer to a ping is waited for."""
        return options.Keepalive(usual.interval_s, usual.timeout_s * self.scale)

    def is_late(self, waited_s: float, *, usual_s: float) -> bool:
        """Whether an attempt that failed after `waited_s` did so by the deadline that is usually `usual_s`."""
        return waited_s >= _LATE * usual_s * self.scale

    def nobody_answered(self) -> None:
        """All that were asked failed, one by its deadline: the next attempts may take twice as long."""
        self.connect_s = min(2 * self.connect_s, self._most_s)

    def connected(self, took_s: float) -> None:
        """A new connection was made in so many seconds."""
        self.connect_s = min(max(_ROOM * took_s, self._least_s), self._most_s)
