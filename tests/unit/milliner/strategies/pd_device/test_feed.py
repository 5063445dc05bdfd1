"""What the device is given: the prompt or what is kept of it, in order, then the answer."""

from __future__ import annotations

import random

from milliner.strategies.pd_device import feed

PROMPT = list(range(100, 120))


def test_the_prompt_then_the_answer() -> None:
    given = feed.Feed(PROMPT)
    assert given.unseen([7, 8]) == 22
    assert given.take([7, 8], at_most=15) == PROMPT[:15]
    assert given.take([7, 8, 9], at_most=7) == [*PROMPT[15:], 7, 8]
    assert given.take([7, 8, 9]) == [9]
    assert given.unseen([7, 8, 9]) == given.left_out == 0


def test_what_is_kept_counts_for_what_was_not_given_yet() -> None:
    given = feed.Feed(PROMPT)
    given.take([], at_most=6)
    given.select(((4, 8), (12, 14), (19, 20)))
    assert given.unseen([7]) == 6
    assert given.take([7]) == [106, 107, 112, 113, 119, 7]
    assert given.left_out == 20 - 6 - 5


def test_what_is_cached_is_given_whatever_is_kept() -> None:
    given = feed.Feed(PROMPT, cached_tokens=5)
    assert given.cached_left == 5
    given.select(((0, 1), (18, 20)))
    assert given.take([], at_most=5) == PROMPT[:5]
    assert given.cached_left == 0
    assert given.take([]) == PROMPT[18:]
    assert given.left_out == 13


def test_once_the_prompt_is_given_a_selection_changes_nothing() -> None:
    given = feed.Feed(PROMPT)
    given.take([])
    given.select(((19, 20),))
    assert (given.left_out, given.take([7])) == (0, [7])


def test_no_token_is_given_twice_or_out_of_order_however_it_is_cut() -> None:
    drawn = random.Random(7)
    for _ in range(200):
        given, seen, answer = feed.Feed(PROMPT, cached_tokens=drawn.randrange(6)), list[int](), list[int]()
        select_at = drawn.randrange(30)
        for turn in range(40):
            if turn == select_at:
                given.select(((3, 9), (15, 20)))
            if len(answer) < 12 and drawn.random() < 0.5:
                answer.append(len(answer))
            seen += given.take(answer, at_most=drawn.randrange(4))
        seen += given.take(answer)
        prompt = [each for each in seen if each >= 100]
        assert seen == prompt + answer
        assert prompt == sorted(set(prompt))
        assert len(prompt) + given.left_out == len(PROMPT)
        assert set(range(115, 120)) <= set(prompt)
