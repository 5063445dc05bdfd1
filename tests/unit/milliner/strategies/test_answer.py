"""Where an answer ends."""

from __future__ import annotations

from milliner.core import types
from milliner.strategies import answer


def tokens(*token_ids: int) -> tuple[types.EmittedToken, ...]:
    return tuple(types.EmittedToken(token_id, types.TokenOrigin.DRAFT) for token_id in token_ids)


def ids(emission: types.Emission) -> list[int]:
    return [token.token_id for token in emission.tokens]


def new_answer(max_new_tokens: int, *stop: int) -> answer.Answer:
    return answer.Answer(
        types.GenerationRequest("r", (1,), max_new_tokens=max_new_tokens, stop_token_ids=frozenset(stop))
    )


def test_the_limit_cuts_a_round() -> None:
    current = new_answer(3)
    assert ids(current.take(tokens(5, 6))) == [5, 6]
    assert current.remaining == 1
    last = current.take(tokens(7, 8, 9))
    assert ids(last) == [7]
    assert last.finish_reason is types.FinishReason.LENGTH
    assert current.finished


def test_a_stop_token_is_not_part_of_the_answer() -> None:
    last = new_answer(9, 6).take(tokens(5, 6, 7))
    assert ids(last) == [5]
    assert last.finish_reason is types.FinishReason.STOP


def test_a_stop_token_wins_over_the_limit_it_would_reach() -> None:
    assert new_answer(2, 6).take(tokens(5, 6)).finish_reason is types.FinishReason.STOP


def test_a_stop_token_alone_gives_an_empty_last_emission() -> None:
    last = new_answer(2, 6).take(tokens(6))
    assert ids(last) == []
    assert last.finish_reason is types.FinishReason.STOP
