"""How much of a replica's time is promised to the sequences that it has admitted. Pure arithmetic, torch-free.

A sequence that is to generate N more tokens takes N·τ_c of the replica's seconds, τ_c being a token's share of a full
batch: (a + b·S) / S, with g(x) = a + b·x the time of a batch (docs/algorithms.md) and S the sequences of one. Whoever
comes beyond S waits for what is promised already, so that is bounded: with more, refused now and told when to come
again, a device goes on alone or elsewhere instead of waiting here for a first token that comes too late. As long as
there are fewer than S nobody waits, and nobody is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from milliner.core import errors, types

_SHORTEST_RETRY_S = 0.1  # arbitrary, with the next one: what is worth telling a device
_LONGEST_RETRY_S = 30.0


class CloudSeconds:
    """The account of one replica: `most_s` may be promised beyond `sequences` that run at once."""

    def __init__(self, *, most_s: float, sequences: int, load: Callable[[], types.LoadReport]) -> None:
        self._most_s = most_s
        self._sequences = sequences
        self._load = load
        self._tokens: dict[str, int] = {}  # still to come, by session

    @property
    def token_s(self) -> float:
        """τ_c; 0 before the first batch."""
        load = self._load()
        return load.delay_fixed_s / self._sequences + load.delay_per_token_s

    @property
    def promised_s(self) -> float:
        """Seconds for all tokens that are still to come."""
        return self.token_s * sum(self._tokens.values())

    def check(self, session_id: str, num_tokens: int) -> None:
        """Whether a session may be promised `num_tokens`, instead of what it was promised before.

        Raises `CapacityError` with the time after which there should be room (*expected*).
        """
        others = [tokens for other, tokens in self._tokens.items() if other != session_id]
        wanted_s, promised_s = self.token_s * num_tokens, self.token_s * sum(others)
        excess_s = wanted_s + promised_s - self._most_s
        if excess_s > 0.0 and len(others) >= self._sequences:
            raise errors.CapacityError(
                f"{num_tokens} tokens would take the cloud {wanted_s:.1f} s, and {promised_s:.1f} of {self._most_s:g} "
                "are promised to others: try again later",
                field="max_tokens",
                retry_after_s=min(_LONGEST_RETRY_S, max(_SHORTEST_RETRY_S, excess_s)),
            )

    def book(self, session_id: str, num_tokens: int) -> None:
        """Promises a session `num_tokens`, instead of what it was promised before."""
        self._tokens[session_id] = max(0, num_tokens)

    def generated(self, session_id: str) -> None:
        """One of the session's tokens has come."""
        if self._tokens.get(session_id, 0) > 0:
            self._tokens[session_id] -= 1

    def release(self, session_id: str) -> None:
        """The session has ended; unknown ids are ignored."""
        self._tokens.pop(session_id, None)
