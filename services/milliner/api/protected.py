"""Which of a chat's prompt tokens are to be kept when a prompt is refined: instructions and the question. Pure.

The system messages and the user's last message count as such up to `MOST_TOKENS` each, a system message from its
beginning, the user's from its end: what is longer holds material, of which parts may go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from milliner.core import refinement

MOST_TOKENS = 256  # of one message; arbitrary: about a page of instructions

Spans = tuple[tuple[int, int], ...]


def spans(text: str, offsets: Sequence[tuple[int, int]], messages: Sequence[Mapping[str, str]]) -> Spans:
    """Spans [start, end) of tokens, sorted and disjoint. `offsets` are each token's [start, end) in the prompt's
    `text`. A message that the template has not taken over as it is has none."""
    found, last_user = [], _last_user(messages)
    for index, message in enumerate(messages):
        content = message["content"].strip()
        if not content:
            continue
        if message["role"] == "system" and (at := text.find(content)) >= 0:
            start, end = _tokens(offsets, at, at + len(content))
            found.append((start, min(end, start + MOST_TOKENS)))
        elif index == last_user and (at := text.rfind(content)) >= 0:
            start, end = _tokens(offsets, at, at + len(content))
            found.append((max(start, end - MOST_TOKENS), end))
    return refinement.spans(refinement.mark(found, num_tokens=len(offsets)))


def _last_user(messages: Sequence[Mapping[str, str]]) -> int:
    return max((index for index, message in enumerate(messages) if message["role"] == "user"), default=-1)


def _tokens(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """The tokens that have a part in the characters [start, end); both bounds equal where there are none."""
    inside = [index for index, (first, last) in enumerate(offsets) if first < end and last > start]
    return (inside[0], inside[-1] + 1) if inside else (0, 0)
