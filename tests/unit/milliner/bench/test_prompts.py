from __future__ import annotations

import itertools

import pytest

from milliner.bench import plan, prompts

TEXTS = ["".join(chr(0x4E00 + i) for i in range(100)), "".join(chr(0x6E00 + i) for i in range(60))]


def _encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def test_prompts_have_their_length_and_no_token_in_common() -> None:
    cut = prompts.cut(TEXTS, encode=_encode, lengths=[10, 30], count=5)
    for length, windows in cut.items():
        assert [len(window) for window in windows] == [length] * 5
        for one, other in itertools.combinations(windows, 2):
            assert not set(one) & set(other)


def test_texts_take_turns() -> None:
    first, second, third = prompts.cut(TEXTS, encode=_encode, lengths=[10], count=3)[10]
    assert (first[0], second[0], third[0]) == (0x4E00, 0x6E00, 0x4E00 + 10)


def test_too_little_text_names_the_option_and_what_there_is() -> None:
    with pytest.raises(plan.PlanError, match="6 prompts of 30 tokens, the held-out text holds only 5") as caught:
        prompts.cut(TEXTS, encode=_encode, lengths=[30], count=6)
    assert caught.value.field == "--requests"
    with pytest.raises(plan.PlanError, match="is 500, but no held-out text is longer than") as caught:
        prompts.cut(TEXTS, encode=_encode, lengths=[500], count=1)
    assert caught.value.field == "--prompt-tokens"
