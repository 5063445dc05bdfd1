"""What the device has yet to be given of a request: the prompt, whole or what is kept of it, then the answer's tokens.

Positions are the prompt's own; the device sees what it is given without gaps, as a shorter prompt. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence


class Feed:
    """See the module. The first `cached_tokens` of the prompt are given whatever is kept: they cost nothing."""

    def __init__(self, prompt_ids: Sequence[int], *, cached_tokens: int = 0) -> None:
        self._prompt_ids = prompt_ids
        self._cached_tokens = cached_tokens
        self._next = 0  # position in the prompt
        self._left = list(range(len(prompt_ids)))  # positions not given yet, in descending order
        self._left.reverse()
        self.num_answered = 0  # tokens of the answer that were given
        self.left_out = 0  # positions of the prompt that the device never sees

    @property
    def cached_left(self) -> int:
        """Tokens of the prompt that are cached and not given yet."""
        return max(0, self._cached_tokens - self._next)

    def select(self, kept: Sequence[tuple[int, int]]) -> None:
        """From now on only the `kept` [start, end) of the prompt are given, and what is cached."""
        wanted = {position for start, end in kept for position in range(start, end)}
        left = [each for each in self._left if each in wanted or each < self._cached_tokens]
        self.left_out += len(self._left) - len(left)
        self._left = left

    def unseen(self, answer_ids: Sequence[int]) -> int:
        """How many tokens are left to give of the prompt and of `answer_ids`, all that are known."""
        return len(self._left) + len(answer_ids) - self.num_answered

    def take(self, answer_ids: Sequence[int], *, at_most: int | None = None) -> list[int]:
        """The next tokens to give, `at_most` of them; they count as given from now on."""
        wanted = self.unseen(answer_ids) if at_most is None else min(at_most, self.unseen(answer_ids))
        from_prompt = min(wanted, len(self._left))
        positions = [self._left.pop() for _ in range(from_prompt)]
        if positions:
            self._next = positions[-1] + 1
        start = self.num_answered
        self.num_answered += wanted - from_prompt
        return [self._prompt_ids[each] for each in positions] + list(answer_ids[start : self.num_answered])
