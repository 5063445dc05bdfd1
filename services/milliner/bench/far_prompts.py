"""Prompts whose answer stands far back in them, made of plain ones of the same length. Pure, torch-free.

What is added is drawn, and drawn evenly over the whole prompt: no selection of positions is favoured by where it
stands. Two kinds:

- **quote**: the last `CUE_TOKENS` become the beginning of a passage of the prompt itself, which the answer continues,
  as an answer does that quotes a document. Any place where beginning and answer fit before the cue is as likely.
- **definition**: `DEFINITIONS` made-up lines `name = value` are written over as many places of the prompt, and it ends
  with the question for one of them, `name =`: any of them, at any place.

Called by `bench.refine`.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable, Sequence

from milliner.bench import prompts
from milliner.core import errors
from milliner.demo import definitions

CUE_TOKENS = 24  # what stands behind the prompt of a quote; arbitrary
DEFINITIONS = 4  # arbitrary

Encode = Callable[[str], Sequence[int]]


class Kind(enum.StrEnum):
    """What the answer needs of the prompt."""

    PLAIN = "plain"  # held-out text as it is
    QUOTE = "quote"
    DEFINITION = "definition"


ANSWER_TOKENS = {Kind.PLAIN: 64, Kind.QUOTE: 64, Kind.DEFINITION: 6}
"""The benches' 64; of a definition what most values take in the demo's tokens, so that what follows hardly counts."""


def make(kind: Kind, prompt: prompts.Prompt, *, encode: Encode, draw: random.Random) -> prompts.Prompt:
    """A prompt of this kind, as long as `prompt`. Raises `ConfigError` where that is too short for it."""
    if kind is Kind.QUOTE:
        return _quote(prompt, draw)
    if kind is Kind.DEFINITION:
        return _definition(prompt, encode, draw)
    return prompt


def _quote(prompt: prompts.Prompt, draw: random.Random) -> prompts.Prompt:
    body = prompt[:-CUE_TOKENS]
    room = len(body) - CUE_TOKENS - ANSWER_TOKENS[Kind.QUOTE]
    if room < 0:
        raise _too_short(prompt, 2 * CUE_TOKENS + ANSWER_TOKENS[Kind.QUOTE])
    start = draw.randint(0, room)
    return body + body[start : start + CUE_TOKENS]


def _definition(prompt: prompts.Prompt, encode: Encode, draw: random.Random) -> prompts.Prompt:
    names = [definitions.name(draw) for _ in range(DEFINITIONS)]
    lines = [tuple(encode(definitions.line(name, definitions.value(draw)))) for name in names]
    question = tuple(encode("\n" + definitions.question(draw.choice(names))))
    taken = sum(len(line) for line in lines)
    room = len(prompt) - len(question) - taken
    if room < 0:
        raise _too_short(prompt, len(question) + taken)
    made = list(prompt[: len(prompt) - len(question)])
    before = 0
    for place, line in zip(sorted(draw.randint(0, room) for _ in lines), lines, strict=True):
        start = place + before
        made[start : start + len(line)] = line
        before += len(line)
    return (*made, *question)


def _too_short(prompt: prompts.Prompt, needed: int) -> errors.ConfigError:
    return errors.ConfigError(
        f"{len(prompt)} is too short: these prompts need {needed} tokens", field="--prompt-tokens"
    )
