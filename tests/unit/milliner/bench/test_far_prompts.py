"""Prompts whose answer stands in them: as long as the plain one, the answer in it, drawn evenly and the same again."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from milliner.bench import far_prompts
from milliner.core import errors

PROMPT = tuple(range(1_000, 1_400))
QUOTE, DEFINITION = far_prompts.Kind.QUOTE, far_prompts.Kind.DEFINITION


def encode(text: str) -> Sequence[int]:
    """A token for each character."""
    return [ord(character) for character in text]


def made(kind: far_prompts.Kind, seed: int, prompt: tuple[int, ...] = PROMPT) -> tuple[int, ...]:
    return far_prompts.make(kind, prompt, encode=encode, draw=random.Random(seed))


@pytest.mark.parametrize("kind", far_prompts.Kind)
def test_the_length_stays_and_a_seed_says_all(kind: far_prompts.Kind) -> None:
    assert len(made(kind, 1)) == len(PROMPT)
    assert made(kind, 1) == made(kind, 1)
    assert (made(kind, 1) != made(kind, 2)) is (kind is not far_prompts.Kind.PLAIN)
    assert set(far_prompts.ANSWER_TOKENS) == set(far_prompts.Kind)


def test_a_quote_ends_with_the_beginning_of_what_stands_before_it() -> None:
    starts = []
    for seed in range(400):
        prompt = made(QUOTE, seed)
        body, cue = prompt[: -far_prompts.CUE_TOKENS], prompt[-far_prompts.CUE_TOKENS :]
        assert body == PROMPT[: len(body)]
        starts.append(body.index(cue[0]))
        assert body[starts[-1] : starts[-1] + len(cue)] == cue
    last = len(PROMPT) - 2 * far_prompts.CUE_TOKENS - far_prompts.ANSWER_TOKENS[QUOTE]
    assert min(starts) < 10 and last - 10 < max(starts) <= last
    quarters = [sum(start * 4 // (last + 1) == quarter for start in starts) for quarter in range(4)]
    assert min(quarters) > 70  # 100 expected; 3.5 standard deviations


def test_a_definition_is_asked_for_that_stands_in_the_prompt_once() -> None:
    places = []
    for seed in range(200):
        prompt = made(DEFINITION, seed)
        text = "".join(chr(token) for token in prompt)
        question = text[text.rindex("\n") :]
        assert question.endswith(" =")
        assert text.count(f"{question} ") == 1 and text.endswith(question)
        assert text.count(" = ") == far_prompts.DEFINITIONS
        places.append(text.index(question) / len(text))
    assert min(places) < 0.1 and max(places) > 0.8


@pytest.mark.parametrize("kind", [QUOTE, DEFINITION])
def test_prompts_that_cannot_hold_it_are_refused(kind: far_prompts.Kind) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        made(kind, 1, PROMPT[:40])
    assert caught.value.field == "--prompt-tokens"
