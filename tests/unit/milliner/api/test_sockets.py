"""The application behind a real server: the `openai` client, and clients that vanish."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from . import conftest as toys


async def test_the_openai_client_chats(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="toy", messages=[{"role": "user", "content": "say"}], logprobs=True, top_logprobs=1, n=2
    )
    assert [choice.message.content for choice in answer.choices] == ["Hello, world"] * 2
    assert answer.choices[0].logprobs is not None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24
    assert [model.id async for model in client.models.list()] == ["toy"]


async def test_the_openai_client_streams(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="toy",
        messages=[{"role": "user", "content": "say"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello, world"
    assert chunks[-1].usage is not None
    completions = await client.completions.create(model="toy", prompt=[[1, 2], [3]], max_tokens=5, stream=True)
    assert sorted([chunk.choices[0].index async for chunk in completions]) == [0, 0, 0, 1, 1, 1]


async def test_the_openai_client_understands_our_errors(client: openai.AsyncOpenAI, served: toys.Served) -> None:
    with pytest.raises(openai.NotFoundError, match="other") as unknown:
        await client.completions.create(model="other", prompt="x")
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        await client.completions.create(model="toy", prompt="x", frequency_penalty=1.5)
    assert bad.value.param == "frequency_penalty"
    served.generator.fail_at_round = 1
    stream = await client.completions.create(model="toy", prompt="x", stream=True)
    with pytest.raises(openai.APIError, match="the cloud went away"):
        [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stall_at_round", [0, 2])
async def test_closing_the_connection_frees_the_strategy(
    served: toys.Served, port: int, stream: bool, stall_at_round: int
) -> None:
    served.generator.stall_at_round = stall_at_round
    body = json.dumps({"model": "toy", "prompt": "x", "stream": stream, "n": 2}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await toys.until(lambda: served.generator.open == 2)
    await served.generator.stalled.wait()
    writer.close()
    await toys.until(lambda: served.generator.open == 0)
    await toys.until(lambda: len(served.summaries) == 2)
    assert served.generator.closed == 2
    assert {one.error_type for one in served.summaries} == {"CancelledError"}
    assert not any(span.status.is_ok for span in served.traced.recent.spans() if span.name == "text_completion toy")
    served.generator.stall_at_round = None
    answer = await served.complete()  # the slot is free again
    assert answer.json()["choices"][0]["text"] == "Hello, world"


@pytest.mark.parametrize(
    ("sent", "status"), [(b'{"model": "toy", ', b"408"), (b" " * 11_000, b"413")], ids=["too slowly", "too much"]
)
async def test_a_body_that_nobody_will_read_ends_its_connection(port: int, sent: bytes, status: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000"
    writer.write(head + b"\r\n\r\n" + sent)
    async with asyncio.timeout(5.0):  # uvicorn itself would wait for the rest for ever
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 " + status)
    writer.close()
