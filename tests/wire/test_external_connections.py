"""Connections to an external engine: kept from answer to answer, given up where an answer is, replaced when stale."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.wire import engine_stand_in, toy_tokens
from tests.wire.conftest import eventually
from tests.wire.engine_stand_in import Speaks, StandIn
from tests.wire.test_external_engines import DIALECTS, TOKENIZER, connected, wanted
from tests.wire.test_external_faults import IMPATIENT

from milliner.contract import role_config
from milliner.core import errors
from milliner.wire.external import connections, transport
from milliner.wire.external import server as servers

MODELS = b'{"data": [{"id": "toy"}]}'


def no_rest() -> bool:
    return not any(task.get_name() == "rest of an answer" for task in asyncio.all_tasks())


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_answers_follow_one_another_over_one_connection(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    async with connected(stand_in) as cloud:
        await cloud.find()
        await eventually(no_rest)
        asked = len(stand_in.ports)
        for stops in (frozenset[int](), frozenset({engine_stand_in.END})):
            stream = await cloud.open(wanted(8, prompt_ids=(94,), stops=stops))
            await toy_tokens.the_rest(stream)
            await stream.close()
            await eventually(no_rest)
        assert await cloud.why_unreachable() == ""
        await toy_tokens.the_rest(await cloud.open(wanted(2)))
        assert len(set(stand_in.ports[asked:])) == 1


async def test_an_answer_that_is_not_wanted_any_more_costs_its_connection() -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await cloud.find()
        await eventually(no_rest)
        stand_in.gate.clear()
        stand_in.free = 2
        stream = await cloud.open(wanted(400))
        await stream.receive()
        await stream.set_limit(1)
        await eventually(lambda: len(stand_in.ended) == len(stand_in.given))
        stand_in.gate.set()
        await toy_tokens.the_rest(await cloud.open(wanted(2)))
        assert stand_in.ports[-1] != stand_in.ports[-2]


async def test_the_last_token_does_not_wait_for_the_end_of_the_answer() -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.lingers.clear()
        stream = await cloud.open(wanted(2))
        assert await toy_tokens.the_rest(stream) == [101, 102]
        await stream.close()
        assert not no_rest(), "its end is waited for beside"
        stand_in.lingers.set()
        await eventually(no_rest)


async def test_an_answer_that_does_not_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_REST_S", 0.05)
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.lingers.clear()
        await toy_tokens.the_rest(await cloud.open(wanted(2)))
        await eventually(no_rest)
        await eventually(lambda: len(stand_in.ended) == len(stand_in.given))


async def test_a_server_that_was_started_again_is_not_taken_for_trouble() -> None:
    stand_in = StandIn(Speaks.SGLANG)
    troubles: list[int] = []
    async with engine_stand_in.serving(stand_in) as url:
        cloud = transport.ExternalTransport(role_config.ExternalServer(url=url), tokenizer=TOKENIZER)
        cloud.on_trouble = lambda: troubles.append(1)
        await toy_tokens.the_rest(await cloud.open(wanted(2)))
        await eventually(no_rest)
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    async with engine_stand_in.serving(stand_in, port=port):
        assert await toy_tokens.the_rest(await cloud.open(wanted(2))) == [101, 102]
        assert troubles == []
        await cloud.close()


@contextlib.asynccontextmanager
async def hanging_up(*, answers: int) -> AsyncIterator[tuple[str, list[int]]]:
    """A server's address, and how many requests each connection has brought: as many `answers`, and the connection is
    closed at the next."""
    asked: list[int] = []
    serving: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        index = len(asked)
        asked.append(0)
        serving.append(asyncio.current_task())  # type: ignore[arg-type]
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                asked[index] += 1
                if asked[index] > answers:
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(MODELS), MODELS))
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1", asked
        await asyncio.gather(*serving)


async def test_a_connection_that_is_closed_while_it_is_used_again_is_replaced() -> None:
    async with hanging_up(answers=1) as (url, asked):
        server = servers.HttpServer(role_config.ExternalServer(url=url))
        for _ in range(3):
            assert (await server.look())["data"]
        await server.close()
    assert asked == [2, 2, 1]


async def test_a_server_that_hangs_up_on_newcomers_is_not_asked_again() -> None:
    async with hanging_up(answers=0) as (url, asked):
        server = servers.HttpServer(role_config.ExternalServer(url=url))
        with pytest.raises(errors.UnavailableError, match="disconnected"):
            await server.look()
        await server.close()
    assert asked == [1]


@pytest.mark.parametrize("trickle", [b": ping\n\n", b'data: {"choices": [], "usage": {}}\n\n'])
async def test_a_stream_that_is_kept_open_without_a_token_is_given_up(trickle: bytes) -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in, timeouts=IMPATIENT) as cloud:
        await cloud.find()
        stand_in.trickle = trickle
        stand_in.gate.clear()
        stand_in.free = 1
        stream = await cloud.open(wanted())
        assert (await stream.receive()).index == 0
        async with asyncio.timeout(30):
            with pytest.raises(errors.DeadlineExceeded, match="silent"):
                await stream.receive()
