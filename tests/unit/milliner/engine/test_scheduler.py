"""The default policy: urgency, fairness, splitting, order within a session, and that nobody starves."""

from __future__ import annotations

import random

from milliner.core.types import FrameKind
from milliner.engine import scheduler
from milliner.engine.scheduler import Share, Waiting

VERIFY, LAST, CHUNK = FrameKind.VERIFY, FrameKind.LAST_CHUNK, FrameKind.CHUNK


def waiting(
    ticket: int,
    session: str,
    kind: FrameKind,
    tokens: int,
    *,
    served: int = 0,
    skipped: int = 0,
    joins: bool = False,
) -> Waiting:
    return Waiting(
        ticket=ticket,
        session_id=session,
        kind=kind,
        num_tokens=tokens,
        served_tokens=served,
        skipped_batches=skipped,
        joins_previous=joins,
    )


def plan(*frames: Waiting, budget: int = 100) -> list[tuple[int, int]]:
    shares = scheduler.VerifyFirst().plan(frames, budget_tokens=budget)
    return [(share.ticket, share.num_tokens) for share in shares]


def test_verification_goes_first_then_last_chunks_then_others() -> None:
    frames = [waiting(0, "a", CHUNK, 60), waiting(1, "b", LAST, 30), waiting(2, "c", VERIFY, 5)]
    assert plan(*frames) == [(2, 5), (1, 30), (0, 60)]


def test_a_long_chunk_gets_what_is_left_of_the_budget() -> None:
    assert plan(waiting(0, "a", CHUNK, 500), waiting(1, "b", VERIFY, 5)) == [(1, 5), (0, 95)]


def test_a_verification_is_not_split_for_lack_of_room() -> None:
    frames = [waiting(index, str(index), VERIFY, 40) for index in range(3)]
    assert plan(*frames) == [(0, 40), (1, 40)]


def test_a_verification_beyond_the_whole_budget_is_split_all_the_same() -> None:
    assert plan(waiting(0, "a", VERIFY, 250)) == [(0, 100)]


def test_among_equals_the_least_served_session_comes_first_then_the_oldest_frame() -> None:
    frames = [
        waiting(0, "a", CHUNK, 80, served=900),
        waiting(1, "b", CHUNK, 80, served=10),
        waiting(2, "c", CHUNK, 80, served=10),
    ]
    assert plan(*frames) == [(1, 80), (2, 20)]


def test_a_backlog_of_one_session_joins_in_order() -> None:
    frames = [waiting(0, "a", CHUNK, 30), waiting(1, "a", CHUNK, 30, joins=True), waiting(2, "a", LAST, 60, joins=True)]
    assert plan(*frames) == [(0, 30), (1, 30), (2, 40)]


def test_a_frame_of_a_new_round_waits_for_the_batch_after_its_predecessor() -> None:
    assert plan(waiting(0, "a", VERIFY, 3), waiting(1, "a", VERIFY, 3)) == [(0, 3)]


def test_a_frame_never_passes_an_earlier_one_of_its_session() -> None:
    # The chunk does not fit any more, so the verification behind it must not run either.
    frames = [waiting(0, "b", LAST, 100), waiting(1, "a", CHUNK, 10), waiting(2, "a", VERIFY, 1, joins=True)]
    assert plan(*frames) == [(0, 100)]


def test_an_overdue_chunk_overtakes_with_a_quarter_of_the_budget() -> None:
    frames = [waiting(0, "a", CHUNK, 500, skipped=scheduler.PATIENCE_BATCHES), waiting(1, "b", VERIFY, 70)]
    assert plan(*frames) == [(0, 25), (1, 70)]


def test_an_overdue_session_of_many_small_chunks_takes_a_quarter_too() -> None:
    """A backlog once went past every verification: each of its frames counted as overdue."""
    overdue = scheduler.PATIENCE_BATCHES
    frames = [waiting(index, "a", CHUNK, 10, skipped=overdue, joins=index > 0) for index in range(9)]
    assert plan(*frames, waiting(10, "b", VERIFY, 70)) == [(0, 10), (1, 10), (2, 5), (10, 70)]


def test_nobody_starves_under_verification_that_fills_every_batch() -> None:
    policy = scheduler.VerifyFirst()
    left_tokens, skipped, batches = 60, 0, 0
    while left_tokens > 0 and batches < 100:
        frames = [waiting(1, "chunk", CHUNK, left_tokens, skipped=skipped)]
        frames += [waiting(2 + index, f"verify{index}", VERIFY, 10) for index in range(20)]
        shares = {share.ticket: share.num_tokens for share in policy.plan(frames, budget_tokens=100)}
        skipped = 0 if 1 in shares else skipped + 1
        left_tokens -= shares.get(1, 0)
        batches += 1
    assert batches == 3 * (scheduler.PATIENCE_BATCHES + 1)


def test_service_is_shared_equally_by_sessions_that_always_have_work() -> None:
    """Forty prompts without end against a small budget: no session gets ahead of another by more than one chunk."""
    sizes = random.Random(5)
    served = {f"s{index}": 0 for index in range(40)}
    policy = scheduler.VerifyFirst()
    for _ in range(400):
        frames = [
            waiting(index, name, CHUNK, sizes.randint(16, 256), served=tokens)
            for index, (name, tokens) in enumerate(served.items())
        ]
        names = {view.ticket: view.session_id for view in frames}
        shares: list[Share] = policy.plan(frames, budget_tokens=512)
        assert sum(share.num_tokens for share in shares) <= 512
        for share in shares:
            served[names[share.ticket]] += share.num_tokens
    assert max(served.values()) - min(served.values()) <= 256
    assert min(served.values()) > 0


def test_a_session_that_becomes_busy_starts_with_the_least_served_of_those_that_are() -> None:
    frames = [waiting(0, "a", CHUNK, 5, served=500), waiting(1, "b", VERIFY, 5, served=300)]
    assert scheduler.service_floor(frames) == 300
