"""The uplink's estimates against a modelled link."""

from __future__ import annotations

import pytest

from milliner.strategies import uplink

RATE, ROUND_TRIP_S, COMPUTE_S = 1e6, 0.02, 0.005


def feed(estimate: uplink.Uplink, frames: list[tuple[float, int]]) -> None:
    """Frames (sent at, bytes) through a link of RATE: each is sent when the one before it has left."""
    free_s = 0.0
    for sent_s, num_bytes in frames:
        estimate.sent(at_s=sent_s, num_bytes=num_bytes)
        free_s = max(free_s, sent_s) + num_bytes / RATE
        received_s = free_s + ROUND_TRIP_S + COMPUTE_S
        estimate.replied(session_id="s", sent_s=sent_s, received_s=received_s, remote_s=COMPUTE_S, num_bytes=num_bytes)


def test_nothing_is_known_at_first() -> None:
    estimate = uplink.Uplink()
    assert estimate.bytes_per_s is None
    assert estimate.upload_s(1000) is None
    assert estimate.backlog_s(now_s=0.0) == 0.0


def test_a_backlog_shows_the_rate() -> None:
    estimate = uplink.Uplink()
    feed(estimate, [(0.001 * index, 20_000) for index in range(6)])
    assert estimate.bytes_per_s == pytest.approx(RATE, rel=0.01)


def test_frames_of_different_sizes_show_the_rate_without_a_backlog() -> None:
    estimate = uplink.Uplink()
    feed(estimate, [(1.0 * index, 500 if index % 3 else 60_000) for index in range(12)])
    assert estimate.bytes_per_s == pytest.approx(RATE, rel=0.05)


def test_equal_frames_far_apart_show_nothing() -> None:
    estimate = uplink.Uplink()
    feed(estimate, [(1.0 * index, 500) for index in range(12)])
    assert estimate.bytes_per_s is None


def test_the_backlog_is_what_was_handed_over_and_cannot_have_left() -> None:
    estimate = uplink.Uplink()
    feed(estimate, [(0.001 * index, 20_000) for index in range(6)])
    estimate.sent(at_s=100.0, num_bytes=50_000)
    estimate.sent(at_s=100.0, num_bytes=50_000)
    assert estimate.backlog_s(now_s=100.04) == pytest.approx(0.06, rel=0.05)
    assert estimate.backlog_s(now_s=101.0) == 0.0


def test_a_link_that_changes_is_followed() -> None:
    estimate = uplink.Uplink()
    feed(estimate, [(0.001 * index, 20_000) for index in range(6)])
    slow_s = 100.0
    for index in range(12):
        sent_s, free_s = 100.0 + 0.001 * index, slow_s + 0.04
        estimate.replied(
            session_id="t", sent_s=sent_s, received_s=free_s + ROUND_TRIP_S, remote_s=0.0, num_bytes=20_000
        )
        slow_s = free_s
    assert estimate.bytes_per_s == pytest.approx(RATE / 2, rel=0.05)


def test_a_sender_that_waits_too_long_between_frames_does_not_talk_itself_slower() -> None:
    estimate = uplink.Uplink()
    feed(estimate, [(1.0 * index, 500 if index % 3 else 60_000) for index in range(12)])
    feed(estimate, [(100.0, 8_000), (100.011, 33_000), (100.047, 45_000)])  # each 3 ms after the one before has left
    assert estimate.bytes_per_s == pytest.approx(RATE, rel=0.02)


def test_a_stall_is_forgotten_although_the_sender_waits_for_what_it_believes_is_on_its_way() -> None:
    estimate = uplink.Uplink()
    for sent_s, left_s in ((0.0, 0.1), (0.001, 8.2)):  # two frames of a first prompt; the link stalls in the second
        estimate.sent(at_s=sent_s, num_bytes=100_000)
        received_s = left_s + ROUND_TRIP_S
        estimate.replied(session_id="a", sent_s=sent_s, received_s=received_s, remote_s=0.0, num_bytes=100_000)
    assert estimate.bytes_per_s is not None
    assert estimate.bytes_per_s < RATE / 50
    now_s = free_s = 10.0
    for prompt in range(3):
        for _ in range(8):
            now_s += estimate.backlog_s(now_s=now_s) + 0.002
            free_s = max(free_s, now_s) + 0.1
            estimate.sent(at_s=now_s, num_bytes=100_000)
            received_s = free_s + ROUND_TRIP_S
            estimate.replied(
                session_id=f"{prompt}", sent_s=now_s, received_s=received_s, remote_s=0.0, num_bytes=100_000
            )
            now_s = received_s
    assert estimate.backlog_s(now_s=now_s) < 0.2
    assert now_s < 10.0 + 2 * 24 * 0.122  # 24 frames of 0.1 s, each answered before the next


def test_what_was_answered_is_not_on_its_way() -> None:
    estimate = uplink.Uplink()
    feed(estimate, [(0.001 * index, 20_000) for index in range(6)])
    estimate.sent(at_s=100.0, num_bytes=5_000_000)  # five seconds' worth, as it seems
    estimate.sent(at_s=100.01, num_bytes=20_000)
    estimate.replied(session_id="t", sent_s=100.0, received_s=100.5, remote_s=0.0, num_bytes=5_000_000)
    assert estimate.backlog_s(now_s=100.5) < 0.05
