"""Pages are never given twice, never lost, and stay consecutive where they can."""

from __future__ import annotations

import random

import pytest

from milliner.model import pages


def test_random_use_never_loses_or_doubles_a_page() -> None:
    rng = random.Random(7)
    allocator = pages.PageAllocator(40)
    held: list[list[int]] = []
    for _ in range(3000):
        count = rng.randint(1, 5)
        action = rng.choice(("run", "any", "extend", "free"))
        if action == "run" and (first := allocator.take_run(count, room=count)) is not None:
            held.append(list(range(first, first + count)))
        elif action == "any" and count <= allocator.free_pages:
            held.append(allocator.take_any(count))
        elif action == "extend" and held:
            last = held[-1][-1]
            if allocator.extend(last + 1, count):
                held[-1].extend(range(last + 1, last + 1 + count))
        elif action == "free" and held:
            allocator.give_back(held.pop(rng.randrange(len(held))))
        taken = [page for group in held for page in group]
        assert len(taken) == len(set(taken))
        assert all(0 <= page < 40 for page in taken)
        assert allocator.free_pages == 40 - len(taken)
    for group in held:
        allocator.give_back(group)
    assert allocator.take_run(40, room=40) == 0  # all runs were merged again


def test_neighbours_leave_each_other_room_to_grow() -> None:
    allocator = pages.PageAllocator(64)
    starts = [allocator.take_run(2, room=2) for _ in range(4)]
    assert starts[0] == 0
    for start in starts:
        assert start is not None
        assert allocator.extend(start + 2, 3)


def test_extend_refuses_what_is_taken_or_outside() -> None:
    allocator = pages.PageAllocator(4)
    assert allocator.take_run(2, room=2) == 0
    assert not allocator.extend(2, 3)
    assert allocator.extend(2, 2)
    assert not allocator.extend(4, 1)
    assert allocator.take_run(1, room=1) is None


def test_freeing_twice_is_a_bug_that_shows() -> None:
    allocator = pages.PageAllocator(4)
    taken = allocator.take_any(2)
    allocator.give_back(taken)
    with pytest.raises(AssertionError, match="twice"):
        allocator.give_back(taken)
