"""The client of a device's API: pieces of a stream, and errors that come back as what they were."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from milliner.core import errors
from milliner.local import client


def device(handler: Callable[[httpx.Request], httpx.Response]) -> client.DeviceClient:
    return client.DeviceClient("http://device", transport=httpx.MockTransport(handler))


def stream(*chunks: dict[str, object]) -> httpx.Response:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return httpx.Response(200, text=": a comment\n\n" + "".join(lines) + "data: [DONE]\n\n")


async def test_pieces_join_to_the_answer() -> None:
    seen: list[dict[str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return stream(
            {"choices": [{"text": "Hel", "token_ids": [1, 2]}]},
            {"choices": [{"text": "lo", "token_ids": [3], "finish_reason": "length"}]},
            {"choices": [], "usage": {"completion_tokens": 3}, "milliner": {"duration_s": 1.0}},
        )

    told = client.Piece(text="")
    async with device(answer) as http:
        async for piece in http.complete([5, 6], max_tokens=3):
            told = client.merged(told, piece)
    assert told == client.Piece("Hello", "length", (1, 2, 3), {"completion_tokens": 3}, {"duration_s": 1.0})
    assert seen[0]["prompt"] == [5, 6]
    assert seen[0]["stream"] is True
    assert seen[0]["max_tokens"] == 3


@pytest.mark.parametrize("text", ["<html>hello</html>", '{"data": []}', "[1]", '{"data": [{"name": "m"}]}'])
async def test_another_program_at_the_address_is_named(text: str) -> None:
    async with device(lambda _: httpx.Response(200, text=text)) as http:
        with pytest.raises(errors.ProtocolError, match=r"http://device/v1/models is no device of Milliner"):
            await http.models()


@pytest.mark.parametrize("data", ["{nope", "[1]", "hello"])
async def test_a_stream_of_something_else_is_named(data: str) -> None:
    async with device(lambda _: httpx.Response(200, text=f"data: {data}\n\n")) as http:
        with pytest.raises(errors.ProtocolError, match=r"http://device/v1/completions is no device of Milliner"):
            [piece async for piece in http.complete("x")]


@pytest.mark.parametrize("body", ["", "<html>", 'data: {"choices": [{"text": "abc"}]}\n\n'])
async def test_an_answer_that_breaks_off_is_no_answer(body: str) -> None:
    async with device(lambda _: httpx.Response(200, text=body)) as http:
        with pytest.raises(errors.UnavailableError, match="the answer of http://device broke off"):
            [piece async for piece in http.complete("x")]


async def test_chat_reads_deltas() -> None:
    response = stream(
        {"choices": [{"delta": {"role": "assistant"}}]},
        {"choices": [{"delta": {"content": "Hi"}}]},
    )
    async with device(lambda _: response) as http:
        texts = [piece.text async for piece in http.chat([{"role": "user", "content": "?"}])]
    assert "".join(texts) == "Hi"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.InputError),
        (404, errors.UnknownModel),
        (429, errors.CapacityError),
        (500, errors.UnavailableError),
        (503, errors.UnavailableError),
        (504, errors.DeadlineExceeded),
    ],
)
async def test_refusals_keep_their_kind_field_and_words(status: int, expected: type[errors.MillinerError]) -> None:
    body = {"error": {"message": "too much", "param": "max_tokens", "type": "x", "code": None}}
    async with device(lambda _: httpx.Response(status, json=body)) as http:
        with pytest.raises(errors.MillinerError) as refused:
            async for _ in http.complete("x"):
                pass
    assert type(refused.value) is expected
    assert (refused.value.field, refused.value.message) == ("max_tokens", "too much")


async def test_an_error_in_the_middle_of_a_stream_is_raised() -> None:
    response = stream({"choices": [{"text": "a"}]}, {"error": {"message": "the cloud is gone", "param": None}})
    async with device(lambda _: response) as http:
        pieces = http.complete("x")
        assert (await anext(pieces)).text == "a"
        with pytest.raises(errors.UnavailableError, match="the cloud is gone"):
            await anext(pieces)


async def test_bodies_that_are_no_error_objects_are_quoted() -> None:
    async with device(lambda _: httpx.Response(502, text="<html>proxy</html>")) as http:
        with pytest.raises(errors.UnavailableError, match="HTTP 502: <html>proxy"):
            await http.models()


async def test_a_device_that_is_not_there_is_named_unavailable() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with device(refuse) as http:
        with pytest.raises(errors.UnavailableError, match="cannot be reached"):
            await http.models()
        assert await http.ready() == (False, "ConnectError")
