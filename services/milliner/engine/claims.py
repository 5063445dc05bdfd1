"""Who waits for room on this replica, and for whom room is kept. Pure arithmetic on the caller's clock, torch-free.

A cloud keeps no queue: a refused device tries again, and whoever comes when there is room gets it. So a session that
needs much would wait for as long as others of other devices need little. A device therefore names its opening by a
claim, the same over all tries, and claims that were refused for lack of room are remembered here:

- A claim that has waited for `PATIENCE_S` is due. The one that came first of those that are due is the next: others
  are admitted only into room that the next does not need, until it is admitted itself. Then the one after it is next.
- A claim that was not heard of for `FORGOTTEN_AFTER_S` is forgotten, so a device that went elsewhere keeps nobody out.
- An admitted claim is remembered for as long: if a later stage of a pipeline refuses it, it comes back to its place.

Room is kept for one claim at a time, so what lies idle for fairness is less than that one needs, and every claim that
is tried again is the next some day. No more than `MAX_CLAIMS` are remembered; the rest take their chance, as without
claims.
Used by `admission` alone.
"""

from __future__ import annotations

import dataclasses

# Until then whoever fits is let in: most waits end by themselves, and keeping room costs throughput. Arbitrary; a sixth
# of what a device waits at most (strategies.openings).
PATIENCE_S = 5.0
# Twice the longest pause between two tries (2 s, strategies.cloud_session): one try may be lost or slow. Arbitrary.
FORGOTTEN_AFTER_S = 4.0
# Arbitrary: more devices than a replica serves; about 200 bytes each and one pass over them for every opening.
MAX_CLAIMS = 1024


@dataclasses.dataclass(slots=True)
class Claim:
    """An opening that is tried again and again: the pages that it needs, and when it was first and last tried."""

    pages: int
    first_s: float
    last_s: float
    waiting: bool = True  # False: admitted


class Claims:
    """See the module."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}  # in the order of their first tries

    def __len__(self) -> int:
        return len(self._claims)

    def pages_kept_from(self, name: str, *, now_s: float) -> int:
        """The pages of the claim that is next, which others have to leave; 0 for that claim itself or if none is due.

        Forgets claims that are not tried any more.
        """
        self._forget(now_s)
        for other, claim in self._claims.items():
            if claim.waiting and now_s - claim.first_s >= PATIENCE_S:
                return 0 if other == name else claim.pages
        return 0

    def refused(self, name: str, pages: int, *, now_s: float) -> None:
        """The claim found no room for `pages`; an opening without one ("") cannot be known again."""
        known = self._claims.get(name)
        if known is not None:
            known.pages, known.last_s, known.waiting = pages, now_s, True
        elif name and len(self._claims) < MAX_CLAIMS:
            self._claims[name] = Claim(pages, first_s=now_s, last_s=now_s)

    def admitted(self, name: str, *, now_s: float) -> None:
        """The claim has its room."""
        known = self._claims.get(name)
        if known is not None:
            known.last_s, known.waiting = now_s, False

    def _forget(self, now_s: float) -> None:
        gone = [name for name, claim in self._claims.items() if now_s - claim.last_s > FORGOTTEN_AFTER_S]
        for name in gone:
            del self._claims[name]
