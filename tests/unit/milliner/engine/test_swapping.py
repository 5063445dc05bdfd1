"""Which caches move: the account, and the promise that the most urgent session always finds its pages."""

from __future__ import annotations

import collections
import random
import types

import pytest

from milliner.core import errors
from milliner.engine import admission, residency, reuse, session, swapping, work

PAGE_TOKENS = 4


class World:
    """Sessions that only have a size; the order of `sessions` is their rank."""

    def __init__(self, *, num_pages: int, swap_pages: int) -> None:
        self.admission = admission.Admission(
            num_pages=num_pages, swap_pages=swap_pages, page_tokens=PAGE_TOKENS, max_sessions=1000
        )
        self.places = residency.Residency(num_pages, swap_pages, PAGE_TOKENS)
        self.kept = reuse.Reuse(self.admission, self.places)
        self.swapping = swapping.Swapping(self.places, self.kept)
        self.sessions: list[session.Session] = []
        self.opened = 0

    def open(self, positions: int) -> session.Session:
        """Raises `KVCacheFull`."""
        pages = self.admission.admit(positions, now_s=0.0)
        owner = session.Session(
            session_id=str(self.opened), max_positions=positions, pages=pages, order=self.opened, now_s=0.0
        )
        self.opened += 1
        self.sessions.append(owner)
        _waits(owner, 0)
        return owner

    def run(self, chosen: dict[str, int]) -> tuple[set[str], list[tuple[str, bool]]]:
        """Computes what is chosen up to the given positions, those that find room at once."""
        lineup = swapping.Lineup(self.sessions, lambda: self.sessions)
        owners = [(owner, chosen[owner.id]) for owner in self.sessions if owner.id in chosen]
        refused, moves = set[str](), list[tuple[str, bool]]()
        if not self.swapping.fits(owners):
            refused, found = self.swapping.place(chosen, lineup)
            moves = [(move.session_id, move.out) for move in found]
        for owner, end in owners:
            if owner.id not in refused and not owner.away:
                _waits(owner, max(owner.kv_tokens, end))
        return refused, moves

    def end(self, owner: session.Session) -> None:
        self.sessions.remove(owner)
        self.admission.release(owner.pages)
        self.places.ended(owner)


def _waits(owner: session.Session, at: int) -> None:
    """The session's next frame starts at `at`."""
    frame = types.SimpleNamespace(work=types.SimpleNamespace(start_pos=at), computed_tokens=0)
    owner.queue = collections.deque([frame])  # type: ignore[list-item]


def test_a_new_prompt_displaces_the_least_urgent() -> None:
    world = World(num_pages=4, swap_pages=16)
    first, second, third = world.open(16), world.open(16), world.open(8)
    assert world.run({"0": 8, "1": 8}) == (set(), [])
    world.sessions = [third, second, first]
    assert world.run({"2": 8}) == (set(), [("0", True)])
    assert (first.away, second.away, world.places.swapped_sessions) == (True, False, 1)
    world.sessions = [first, third, second]
    assert world.run({"0": 9}) == (set(), [("1", True), ("2", True), ("0", False)])


def test_who_waits_for_nothing_goes_before_who_waits() -> None:
    world = World(num_pages=4, swap_pages=16)
    first, second, _ = world.open(16), world.open(16), world.open(8)
    world.run({"0": 8, "1": 8})
    first.planned_len = 8
    first.queue.clear()
    assert world.run({"2": 8}) == (set(), [("0", True)])
    assert not second.away


def test_what_finds_no_room_waits_and_displaces_nobody() -> None:
    world = World(num_pages=4, swap_pages=16)
    for positions in (16, 16, 8):
        world.open(positions)
    assert world.run({"0": 16}) == (set(), [])
    assert world.run({"0": 16, "1": 4, "2": 4}) == ({"1", "2"}, [])


def test_one_that_goes_back_behind_what_was_moved_out_needs_room_for_all_of_it() -> None:
    world = World(num_pages=4, swap_pages=16)
    first, second, third = world.open(16), world.open(16), world.open(8)
    world.run({"0": 12, "1": 4})
    world.sessions = [third, second, first]
    assert world.run({"2": 8}) == (set(), [("0", True)])
    _waits(first, 1)  # a rollback: its next frame ends in its first page, but three come in
    world.sessions = [first, third, second]
    assert world.run({"0": 2}) == (set(), [("1", True), ("2", True), ("0", False)])
    assert (first.held_pages, second.away, third.away) == (3, True, True)


def test_what_is_kept_makes_room_for_every_move_and_not_only_for_what_comes_of_all() -> None:
    """The engine ended at a move for which there was no page until the one behind it."""
    world = World(num_pages=16, swap_pages=48)
    leaving = world.open(28), world.open(20)
    coming = world.open(28), world.open(20)
    world.run({"2": 28, "3": 20})
    world.sessions = [*leaving, *coming]
    world.run({"0": 28, "1": 20})
    assert [owner.away for owner in world.sessions] == [False, False, True, True]
    kept = work.KVHandle(100)
    world.kept._cache.keep(kept, list(range(100)), salt="", pages=3)
    assert world.kept.make_room() == []
    world.sessions = [*coming, *leaving]
    moves = [("1", True), ("2", False), ("0", True), ("3", False)]
    assert world.run({"2": 28, "3": 20}) == (set(), moves)
    assert world.places.free_pages == 4, "behind all moves there were room for what is kept"
    assert world.kept.make_room() == [kept], "behind the second there was not: seven pages and seven were held"


def test_the_next_in_the_queue_come_in_while_the_others_run() -> None:
    world = World(num_pages=4, swap_pages=16)
    first, second, third = world.open(16), world.open(16), world.open(8)
    world.run({"0": 8, "1": 8})
    world.sessions = [third, first, second]
    world.run({"2": 4})
    assert second.away
    world.sessions = [third, second, first]
    moves = world.swapping.ahead(swapping.Lineup(world.sessions, lambda: world.sessions), running={"2"})
    assert [(move.session_id, move.out) for move in moves] == [("0", True), ("1", False)]
    assert world.swapping.ahead(swapping.Lineup(world.sessions, lambda: world.sessions), running={"2"}) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_most_urgent_always_finds_its_pages_and_no_budget_is_exceeded(seed: int) -> None:
    chance = random.Random(seed)
    num_pages, swap_pages = chance.randint(4, 30), chance.randint(0, 120)
    world, most_admitted = World(num_pages=num_pages, swap_pages=swap_pages), 0
    for _ in range(300):
        if chance.random() < 0.4:
            try:
                world.open(chance.randint(1, num_pages * PAGE_TOKENS))
            except errors.KVCacheFull:
                if world.sessions and chance.random() < 0.5:
                    world.end(chance.choice(world.sessions))
        if not world.sessions:
            continue
        chance.shuffle(world.sessions)
        most_admitted = max(most_admitted, world.admission.promised_pages)
        chosen = world.sessions[: chance.randint(1, 5)]
        ends = {owner.id: chance.randint(max(1, owner.kv_tokens), owner.kv.max_positions) for owner in chosen}
        refused, _ = world.run(ends)
        assert chosen[0].id not in refused
        world.swapping.ahead(swapping.Lineup(world.sessions, lambda: world.sessions), running=set(ends) - refused)
        places = world.places
        assert sum(owner.held_pages for owner in world.sessions) == places.held_pages <= num_pages
        assert sum(owner.swapped_pages for owner in world.sessions) == places.swapped_pages <= swap_pages
        assert sum(owner.away for owner in world.sessions) == places.swapped_sessions
    assert world.places.moved_out_pages > 0 or most_admitted <= num_pages
