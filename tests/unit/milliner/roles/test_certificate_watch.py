"""A role's own certificate: told when it ends and when it is good again, once each; a cloud then serves or not."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import pathlib
from collections.abc import AsyncIterator

from tests.unit.milliner.roles import test_readiness
from tests.wire import certificates

from milliner.roles import certificate_watch
from milliner.wire import tls


@contextlib.asynccontextmanager
async def watched(identity: tls.Identity, told: list[str]) -> AsyncIterator[test_readiness.FrozenClock]:
    time = test_readiness.FrozenClock()

    async def on_change(trouble: str) -> None:
        told.append(trouble)

    keeping = asyncio.create_task(certificate_watch.keep(identity, clock=time, on_change=on_change))
    try:
        yield time
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def passing(time: test_readiness.FrozenClock) -> None:
    """Half a minute, in looks."""
    for _ in range(6):
        time.time_s += 5.0
        for _ in range(10):
            await asyncio.sleep(0)


async def test_an_end_and_a_renewal_are_told_once_each(tmp_path: pathlib.Path) -> None:
    signer = certificates.authority("topology chat")
    cloud, _ = certificates.tiers(tmp_path, signer)
    told: list[str] = []
    async with watched(tls.Identity(cloud.files), told) as time:
        await passing(time)
        assert told == []
        cloud.take(signer, server=True, not_after=datetime.datetime.now(datetime.UTC) - certificates.DAY)
        await passing(time)
        assert len(told) == 1
        assert "expired at" in told[0]
        cloud.take(signer, server=True)
        await passing(time)
        assert told[1:] == [""]
