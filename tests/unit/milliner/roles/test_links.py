"""Emulated links of a device: one for each replica, given up with it, and the end of one that cannot be kept up."""

from __future__ import annotations

import asyncio

import pytest

from milliner.core import errors
from milliner.roles import links
from milliner.wire import link_process, link_schedule

CONDITIONS = link_schedule.LinkConditions(uplink_bytes_per_s=50e6, downlink_bytes_per_s=50e6, round_trip_s=0.0)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


async def said(address: str) -> bytes:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"hello\n")
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_each_replica_has_a_link_which_goes_with_it() -> None:
    upstream = await asyncio.start_server(echo, "127.0.0.1", 0)
    target = f"127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
    async with links.EmulatedLinks(CONDITIONS) as found:
        first, second = await found.open(target), await found.open("127.0.0.1:9")
        assert len({first, second, target}) == 3
        assert await said(first) == b"hello\n"
        await found.close(target)
        with pytest.raises(ConnectionRefusedError):
            await said(first)
    with pytest.raises(ConnectionRefusedError):
        await said(second)
    upstream.close()
    await upstream.wait_closed()


async def test_a_link_that_cannot_be_kept_up_ends_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(self: link_process.LinkProcess) -> None:
        raise errors.UnavailableError("ended again")

    monkeypatch.setattr(link_process.LinkProcess, "keep", keep)

    async def device() -> None:
        async with links.EmulatedLinks(CONDITIONS) as found:
            await found.open("127.0.0.1:9")
            await asyncio.sleep(30)

    with pytest.raises(BaseExceptionGroup) as ended:
        await device()
    assert [str(error) for error in ended.value.exceptions] == ["ended again"]
