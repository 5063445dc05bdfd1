"""Distinct prompts of exact token lengths, cut from held-out text. Pure: the tokenizer comes as a callable.

Every prompt of a length is a window of its own: windows of one length do not overlap, and files take turns, so that
the kinds of text are mixed. The same files and lengths give the same prompts, whatever is measured with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from milliner.bench import plan

Prompt = tuple[int, ...]


def cut(
    texts: Sequence[str],
    *,
    encode: Callable[[str], Sequence[int]],
    lengths: Sequence[int],
    count: int,
    option: str = "--requests",
) -> dict[int, tuple[Prompt, ...]]:
    """`count` prompts of each length. Raises `plan.PlanError` where the texts are too short for one, or for that many,
    which `option` asks for."""
    encoded = [tuple(encode(text)) for text in texts]
    prompts: dict[int, tuple[Prompt, ...]] = {}
    for length in lengths:
        windows = tuple(itertools.islice(_windows(encoded, length), count))
        if not windows:
            longest = max((len(tokens) for tokens in encoded), default=0)
            raise plan.PlanError(
                f"is {length}, but no held-out text is longer than {longest} tokens", field="--prompt-tokens"
            )
        if len(windows) < count:
            raise plan.PlanError(
                f"asks for {count} prompts of {length} tokens, the held-out text holds only {len(windows)} of them",
                field=option,
            )
        prompts[length] = windows
    return prompts


def _windows(encoded: Sequence[Prompt], length: int) -> Iterator[Prompt]:
    """The first window of each text, then the second of each, and so on."""
    for start in range(0, max((len(tokens) for tokens in encoded), default=0), length):
        for tokens in encoded:
            window = tokens[start : start + length]
            if len(window) == length:
                yield window
