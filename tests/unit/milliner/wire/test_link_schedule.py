"""The arithmetic of an emulated link, without clock or sockets."""

from __future__ import annotations

import random
import statistics

import pytest

from milliner.wire import link_schedule


def direction(
    *, bytes_per_s: float = 1000.0, round_trip_s: float = 0.2, jitter_s: float = 0.0, loss_share: float = 0.0
) -> link_schedule.Direction:
    conditions = link_schedule.LinkConditions(
        uplink_bytes_per_s=bytes_per_s,
        downlink_bytes_per_s=bytes_per_s,
        round_trip_s=round_trip_s,
        jitter_s=jitter_s,
        loss_share=loss_share,
    )
    return link_schedule.Direction(conditions, bytes_per_s=bytes_per_s, generator=random.Random(7))


def test_a_packet_takes_its_bytes_and_half_the_round_trip() -> None:
    assert direction().admit(5.0, 100) == pytest.approx(5.0 + 0.1 + 0.1)


def test_packets_queue_behind_one_another() -> None:
    link = direction()
    assert [link.admit(0.0, 100) for _ in range(3)] == pytest.approx([0.2, 0.3, 0.4])


def test_an_idle_link_does_not_save_up_bandwidth() -> None:
    link = direction()
    link.admit(0.0, 100)
    assert link.admit(10.0, 100) == pytest.approx(10.2)


def test_jitter_keeps_order_and_mean() -> None:
    link = direction(bytes_per_s=1e9, jitter_s=0.02)
    arrivals = [(time, link.admit(time, 1)) for time in (index * 0.1 for index in range(2000))]
    delays = [arrival - time for time, arrival in arrivals]
    assert statistics.mean(delays) == pytest.approx(0.1, abs=0.001)
    assert min(delays) >= 0.09 - 1e-6
    assert max(delays) <= 0.11 + 1e-6
    assert statistics.pstdev(delays) > 0.004
    crowded = [link.admit(300.0 + index * 0.001, 1) for index in range(500)]
    assert crowded == sorted(crowded)


def test_a_lost_packet_costs_a_round_trip_and_holds_up_those_behind() -> None:
    lossy = direction(bytes_per_s=1e9, loss_share=0.1)
    delays = [lossy.admit(index * 1.0, 1) - index * 1.0 for index in range(5000)]
    late = [delay for delay in delays if delay > 0.15]
    assert len(late) / len(delays) == pytest.approx(0.1, abs=0.02)
    assert min(late) == pytest.approx(0.3, abs=1e-6)
    crowded = [lossy.admit(9000.0 + index * 1e-4, 1) for index in range(5000)]
    assert crowded == sorted(crowded)


def test_retransmissions_take_bandwidth_again() -> None:
    lossy = direction(loss_share=0.5, round_trip_s=0.0)
    last = [lossy.admit(0.0, 10) for _ in range(2000)][-1]
    assert last == pytest.approx(2 * 2000 * 10 / 1000, rel=0.1)  # every packet is sent twice on average


def test_the_same_seed_gives_the_same_link() -> None:
    first, second = direction(jitter_s=0.1, loss_share=0.2), direction(jitter_s=0.1, loss_share=0.2)
    assert [first.admit(0, 10) for _ in range(50)] == [second.admit(0, 10) for _ in range(50)]
