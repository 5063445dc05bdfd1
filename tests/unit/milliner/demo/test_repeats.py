"""Training windows in which passages and definitions come again: whole, as far apart as allowed, in most."""

from __future__ import annotations

import numpy
import pytest

from milliner.demo import repeats

VOCABULARY = 5_000
LENGTH = 512


def rising(length: int = LENGTH) -> repeats.Window:
    """Ids that are all different: an id that stands there twice has been repeated."""
    return numpy.arange(length, dtype=numpy.int64)


def gaps(window: repeats.Window) -> list[int]:
    """Distances at which an id comes again."""
    seen: dict[int, int] = {}
    found = []
    for position, token in enumerate(window.tolist()):
        if token in seen:
            found.append(position - seen[token])
        seen[token] = position
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_repeated_passage_stands_where_the_gap_allows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "PASSAGES_EVERY_TOKENS", 10 * LENGTH)  # one passage
    monkeypatch.setattr(repeats, "RANDOM_SHARE", 0.0)
    window = rising()
    repeats.repeat_passages(window, numpy.random.default_rng(seed), max_gap=40, vocabulary_size=VOCABULARY)
    found = gaps(window)
    size = len(found)
    assert repeats.PASSAGE_TOKENS[0] <= size < repeats.PASSAGE_TOKENS[1]
    assert len(set(found)) == 1 and 0 <= found[0] - size <= 40


def test_some_repeated_passages_are_random_ids_in_both_places() -> None:
    window = numpy.zeros(LENGTH, dtype=numpy.int64)
    repeats.repeat_passages(window, numpy.random.default_rng(1), max_gap=LENGTH, vocabulary_size=VOCABULARY)
    made_up = window[window > 0]
    assert len(made_up) > 2 * repeats.PASSAGE_TOKENS[0] and made_up.min() >= repeats.SPECIAL_IDS
    assert len(numpy.unique(made_up)) < len(made_up)


def test_definitions_stand_there_whole_and_come_again() -> None:
    lines = [[6_000 + 10 * number + offset for offset in range(7)] for number in range(50)]
    window = rising()
    repeats.repeat_definitions(window, numpy.random.default_rng(3), lines, max_gap=LENGTH)
    text = window.tolist()
    twice = [line for line in lines if sum(text[at : at + 7] == line for at in range(LENGTH)) == 2]
    assert twice


def test_windows_of_all_kinds_are_drawn_and_reach_grows() -> None:
    text = (numpy.arange(60_000) % 4_000).astype(numpy.uint16)  # nothing twice within a window
    lines = [[4_500 + number, 4_100, 4_200] for number in range(300)]
    draw = repeats.repeating_windows(text, vocabulary_size=VOCABULARY, definitions=lines)
    early = draw(numpy.random.default_rng(0), 200, LENGTH, 0.0)
    late = draw(numpy.random.default_rng(0), 200, LENGTH, 1.0)
    assert early.shape == (200, LENGTH + 1)
    plain = sum(not gaps(window) for window in late)
    defined = sum(4_100 in window for window in late)
    assert 0.1 < plain / 200 < 0.3 and 0.15 < defined / 200 < 0.35
    furthest_late = [max(gaps(window), default=0) for window in late if 4_100 not in window]
    furthest_early = [max(gaps(window), default=0) for window in early if 4_100 not in window]
    assert numpy.median(furthest_late) > 1.5 * numpy.median(furthest_early)
