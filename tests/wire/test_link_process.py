"""The link's process is kept: what kills it costs its connections, and an end without end is an error."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest
from tests.wire import conftest, toy_cloud

from milliner.core import errors
from milliner.wire import client, emulated_link, link_process

LOCAL = emulated_link.LinkConditions(uplink_bytes_per_s=50e6, downlink_bytes_per_s=50e6, round_trip_s=0.002)


def link_pids() -> set[int]:
    """The link processes that this process has started."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "milliner.wire.link_process" in child.cmdline():
                found.add(child.pid)
    return found


def has_started(link: link_process.LinkProcess, num_restarts: int) -> bool:
    """Whether each of its processes has answered the first question, how to start."""
    return link._asked > num_restarts and not link._asking.locked()


@contextlib.asynccontextmanager
async def kept(link: link_process.LinkProcess) -> AsyncIterator[asyncio.Task[None]]:
    keeping: asyncio.Task[None] = asyncio.create_task(link.keep())
    try:
        yield keeping
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_killed_link_is_there_again_on_its_port(pair: conftest.Pair) -> None:
    """Nobody noticed its end: every connection was refused from then on."""
    async with link_process.LinkProcess("127.0.0.1", pair.server.port, LOCAL) as link, kept(link):
        (pid,) = link_pids()
        port = link.port
        async with client.GrpcTransport([f"127.0.0.1:{port}"], timeouts=conftest.TIMEOUTS) as transport:
            stream = await transport.open(toy_cloud.session_open())
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(errors.UnavailableError):
                await stream.receive()
            async with asyncio.timeout(20):
                while await transport.why_unreachable():
                    await asyncio.sleep(0.05)
            again = await transport.open(toy_cloud.session_open("s2"))
            await again.close()
        assert link.port == port
        assert link_pids() != {pid}
    assert link_pids() == set()


async def test_a_link_that_ends_right_after_a_restart_is_an_error_that_names_it(pair: conftest.Pair) -> None:
    async with link_process.LinkProcess("127.0.0.1", pair.server.port, LOCAL) as link, kept(link) as keeping:
        for num_restarts in range(2):
            assert not keeping.done()
            (pid,) = link_pids()
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(20):
                while link_pids() in ({pid}, set()) and not keeping.done():
                    await asyncio.sleep(0.02)
            if not keeping.done():
                await conftest.eventually(functools.partial(has_started, link, num_restarts + 1), within_s=20)
        with pytest.raises(errors.UnavailableError, match=r"link: .* ended again .* after a restart"):
            await asyncio.wait_for(keeping, 20)


async def test_a_link_whose_port_was_taken_meanwhile_is_an_error(pair: conftest.Pair) -> None:
    async with link_process.LinkProcess("127.0.0.1", pair.server.port, LOCAL) as link:
        (pid,) = link_pids()
        os.kill(pid, signal.SIGKILL)
        assert link._process is not None
        await link._process.wait()  # it is no process to psutil before the kernel has closed its sockets
        async with emulated_link.EmulatedLink("127.0.0.1", pair.server.port, LOCAL, port=link.port):
            with pytest.raises(errors.UnavailableError, match="did not answer"):
                await asyncio.wait_for(link.keep(), 20)


async def test_an_answer_that_came_too_late_is_not_the_next_questions(
    pair: conftest.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer after it was one question old."""
    async with (
        link_process.LinkProcess("127.0.0.1", pair.server.port, LOCAL) as link,
        client.GrpcTransport([f"127.0.0.1:{link.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        (pid,) = link_pids()
        with monkeypatch.context() as hurried:
            hurried.setattr(link_process, "_ANSWER_WITHIN_S", 0.1)
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(errors.UnavailableError, match="did not answer"):
                await link.counters()
            os.kill(pid, signal.SIGCONT)
        stream = await transport.open(toy_cloud.session_open())
        await stream.send(toy_cloud.frame(num_tokens=100))
        await stream.receive()
        assert (await link.counters()).bytes_up > 3_200  # 100 positions of 8 float32 numbers
        await stream.close()
