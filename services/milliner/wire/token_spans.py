"""Spans of a prompt in messages of the token stream: written, and read with every check that a peer's deserve.

Used by `token_messages` for what one message can tell, and by the streams for what only both sides' messages can.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable

from milliner.contract.proto import tokens_pb2
from milliner.core import errors, generation

Spans = tuple[tuple[int, int], ...]

MAX_SPANS = 16_384  # arbitrary; 200 KiB at most, and many times what spans worth reading make of the longest prompts


def write(spans: Spans) -> list[tokens_pb2.Span]:
    """[start, end) pairs as messages."""
    return [tokens_pb2.Span(start=start, end=end) for start, end in spans]


def read(messages: Iterable[tokens_pb2.Span], *, field: str) -> Spans:
    """Pairs of messages. Raises `ProtocolError` unless they are sorted, disjoint and not empty, and not too many."""
    spans = tuple((message.start, message.end) for message in messages)
    if len(spans) > MAX_SPANS:
        raise errors.ProtocolError(f"has {len(spans)} spans: send at most {MAX_SPANS}", field=field)
    before = 0
    for start, end in spans:
        if start < before or end <= start:
            raise errors.ProtocolError(
                f"found [{start}, {end}) behind {before}: send sorted, disjoint spans that are not empty", field=field
            )
        before = end
    return spans


def check_inside(spans: Spans, *, num_tokens: int, field: str) -> None:
    """Raises `ProtocolError` for spans that leave a prompt of `num_tokens`."""
    if spans and spans[-1][1] > num_tokens:
        raise errors.ProtocolError(f"position {spans[-1][1] - 1} is outside a prompt of {num_tokens}", field=field)


def read_share(share: float) -> float:
    """The share of the prompt to keep; raises `ProtocolError` outside (0, 1]."""
    if not 0.0 < share <= 1.0:
        raise errors.ProtocolError(f"found {share}: send more than 0 and at most 1", field="keep_share")
    return share


def check_kept(token: generation.CloudToken, request: generation.GenerationOpen) -> None:
    """Raises `ProtocolError` for a refined prompt that is not what the request asked for."""
    if token.kept is None:
        return
    if request.keep_share >= 1.0:
        raise errors.ProtocolError("the cloud refined a prompt that was not to be refined", field="kept")
    num_tokens = len(request.prompt_ids)
    check_inside(token.kept, num_tokens=num_tokens, field="kept")
    if token.kept[-1][1] != num_tokens:
        raise errors.ProtocolError("the prompt's last position is missing", field="kept")
    for start, end in request.keep_spans:
        around = bisect.bisect_right(token.kept, start, key=lambda span: span[0]) - 1
        if around < 0 or end > token.kept[around][1]:
            raise errors.ProtocolError(f"[{start}, {end}) was to be kept and is missing", field="kept")
    most = max(math.ceil(request.keep_share * num_tokens), count((*request.keep_spans, (num_tokens - 1, num_tokens))))
    if (found := count(token.kept)) > most:
        raise errors.ProtocolError(f"holds {found} positions, at most {most} were asked for", field="kept")


def count(spans: Iterable[tuple[int, int]]) -> int:
    """Positions in spans."""
    return sum(end - start for start, end in spans)
