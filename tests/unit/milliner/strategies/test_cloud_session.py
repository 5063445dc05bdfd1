"""A cloud session that is lost, in virtual time: how often and how long another replica is looked for."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.system import split_topology

from milliner.bench.modelled import virtual_time
from milliner.core import compute, errors, types
from milliner.strategies import cloud_session, uplink
from milliner.strategies import options as strategy_options

INFO = compute.DeviceInfo("digest", 4, 2, 0, 32, 67, 512, drafts=False, num_medusa_heads=0)


class FullCloud:
    """Refuses every session for lack of room; remembers when it was asked."""

    def __init__(self) -> None:
        self.clock = virtual_time.VirtualClock()
        self.asked_s: list[float] = []
        self.claims: set[str] = set()
        self.session_ids: set[str] = set()

    async def open(self, request: types.SessionOpen, *, eager: bool = False) -> Any:
        self.asked_s.append(self.clock.now())
        self.claims.add(request.claim)
        self.session_ids.add(request.session_id)
        raise errors.KVCacheFull("full", field="kv_cache")


def test_a_lost_session_asks_a_full_cloud_ever_more_rarely_until_it_gives_up() -> None:
    """Five times a second for 30 s, and each time with a whole replay where the refusal came late."""
    cloud = FullCloud()

    async def lose() -> float:
        lost: Any = None  # nothing is repacked where nothing opens
        session = cloud_session.CloudSession(
            cloud_session.SessionPorts(
                transport=cloud,
                clock=cloud.clock,
                uplink=uplink.Uplink(),
                new_session_id=map(str, itertools.count()).__next__,
                info=INFO,
                codec=strategy_options.CodecOptions(),
                recovery=strategy_options.RecoveryOptions(wait_s=30.0, retry_s=0.2),
            ),
            device=lost,
            record=split_topology.new_record(),
            max_positions=100,
        )
        with pytest.raises(errors.UnavailableError, match="no replica took over within 30 s"):
            await session.recover(0, cause=errors.UnavailableError("the replica went away"))
        return cloud.clock.now()

    assert virtual_time.run(lose()) == pytest.approx(30.0, abs=0.2)
    pauses_s = [after - before for before, after in itertools.pairwise(cloud.asked_s)]
    assert pauses_s[:5] == pytest.approx([0.2, 0.4, 0.8, 1.6, 2.0])
    assert len(cloud.asked_s) <= 20
    assert len(cloud.claims) == 1, "the replica knows that it is the same one who asks"
    assert cloud.claims.isdisjoint(cloud.session_ids) and len(cloud.session_ids) == len(cloud.asked_s)
