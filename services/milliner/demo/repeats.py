"""Training windows in which what stands far back comes again: what `recall` learns from. Pure numpy.

Passages of a window are overwritten with an earlier passage of the same window, some of them made of random ids first,
so that nothing but the earlier place can tell how they go on; other windows get definitions that stand there more than
once, several of them, so that the name alone tells the value; the rest stay as the text is. Distances grow during the
first part of a run: looking back is learnt on near repeats first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import numpy.typing

from milliner.demo import training_loop

PLAIN_SHARE = 0.2  # of windows that stay as they are; the figures here are arbitrary and worked at the first try
DEFINITIONS_SHARE = 0.25  # of windows with definitions
RANDOM_SHARE = 0.35  # of repeated passages that are random ids in both places
PASSAGE_TOKENS = (12, 97)  # at least, and less than
PASSAGES_EVERY_TOKENS = 80  # a window of 512 tokens has seven repeats at most
DEFINITIONS_EVERY_TOKENS = 64
FIRST_GAP_TOKENS = 24
GROWN_SHARE = 0.4  # of the run, by which repeats are as far apart as a window allows
SPECIAL_IDS = 2

Window = numpy.typing.NDArray[numpy.int64]


def repeating_windows(
    text: training_loop.Ids, *, vocabulary_size: int, definitions: Sequence[Sequence[int]]
) -> training_loop.Draw:
    """Windows of `text`, most of them with repeated passages or with some of `definitions`."""
    plain = training_loop.windows_of(text)

    def draw(generator: numpy.random.Generator, count: int, length: int, share: float) -> Window:
        windows = plain(generator, count, length, share)
        reach = FIRST_GAP_TOKENS + int((length - FIRST_GAP_TOKENS) * min(1.0, share / GROWN_SHARE))
        for window in windows:
            kind = generator.random()
            if kind < DEFINITIONS_SHARE:
                repeat_definitions(window, generator, definitions, max_gap=reach)
            elif kind < 1.0 - PLAIN_SHARE:
                repeat_passages(window, generator, max_gap=reach, vocabulary_size=vocabulary_size)
        return windows

    return draw


def repeat_passages(window: Window, generator: numpy.random.Generator, *, max_gap: int, vocabulary_size: int) -> None:
    """Overwrites passages of a window [T] with earlier ones; `max_gap` tokens lie between the two at most.

    What has been repeated may be overwritten or repeated again.
    """
    for _ in range(int(generator.integers(1, len(window) // PASSAGES_EVERY_TOKENS + 2))):
        size = int(generator.integers(*PASSAGE_TOKENS))
        places = _places(len(window), generator, size=size, max_gap=max_gap)
        if places is None:
            continue
        source, again = places
        if generator.random() < RANDOM_SHARE:
            window[source : source + size] = generator.integers(SPECIAL_IDS, vocabulary_size, size=size)
        window[again : again + size] = window[source : source + size]


def repeat_definitions(
    window: Window, generator: numpy.random.Generator, definitions: Sequence[Sequence[int]], *, max_gap: int
) -> None:
    """Writes some of `definitions` (ids of a whole line each) into a window [T], each of them twice."""
    for _ in range(int(generator.integers(2, len(window) // DEFINITIONS_EVERY_TOKENS + 3))):
        line = definitions[int(generator.integers(len(definitions)))]
        places = _places(len(window), generator, size=len(line), max_gap=max_gap)
        for start in places or ():
            window[start : start + len(line)] = line


def _places(length: int, generator: numpy.random.Generator, *, size: int, max_gap: int) -> tuple[int, int] | None:
    """Where a passage stands and where it comes again; None where it does not fit."""
    gap = int(generator.integers(0, max_gap + 1))
    room = length - 2 * size - gap
    if room < 0:
        return None
    source = int(generator.integers(0, room + 1))
    return source, source + size + gap
