"""Answers of both endpoints over ASGI, whole and streamed: what the openai client, aiperf and guidellm ask for."""

from __future__ import annotations

from typing import Any

import pytest

from milliner.core import types

from . import conftest as toys
from .conftest import Served


async def test_a_chat_answer(served: Served) -> None:
    response = await served.chat()
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "toy"
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": toys.ANSWER, "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == toys.usage(9, 12)
    assert "milliner" not in body
    assert response.headers["x-milliner-strategy"] == "Hat"
    assert response.headers["x-milliner-topology"] == "chat"


async def test_a_chat_stream(served: Served) -> None:
    chunks = toys.events(await served.chat(stream=True, stream_options={"include_usage": True}))
    *content, last = chunks
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert content[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in content) == toys.ANSWER
    assert [chunk["choices"][0]["finish_reason"] for chunk in content] == [None] * 5 + ["stop"]
    assert all(chunk["usage"] is None for chunk in content)
    assert last["choices"] == []
    assert last["usage"] == toys.usage(9, 12)


async def test_usage_is_absent_unless_asked_for_and_continuous_on_request(served: Served) -> None:
    assert all("usage" not in chunk for chunk in toys.events(await served.chat(stream=True)))
    chunks = toys.events(await served.complete(stream=True, stream_options={"continuous_usage_stats": True}))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 6, 9, 12, 12]


async def test_a_completion_of_text_and_of_token_ids(served: Served) -> None:
    for prompt in ("say", [115, 97, 121]):
        body = (await served.complete(prompt=prompt)).json()
        assert body["object"] == "text_completion"
        assert body["choices"][0]["text"] == toys.ANSWER
    assert {request.prompt_ids for request in served.generator.requests} == {(115, 97, 121)}


async def test_several_prompts_and_choices(served: Served) -> None:
    response = await served.complete(prompt=["one", "three"], n=2, seed=7, temperature=1.0)
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"] == toys.usage(8, 48)
    seeds = {(len(request.prompt_ids), request.sampling.seed) for request in served.generator.requests}
    assert seeds == {(3, 7), (3, 8), (5, 7), (5, 8)}
    assert served.generator.open == 0


async def test_several_choices_stream_side_by_side(served: Served) -> None:
    chunks = toys.events(await served.chat(n=2, stream=True))
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == toys.ANSWER
        assert mine[-1]["finish_reason"] == "stop"


async def test_sampling_parameters_reach_the_strategy(served: Served) -> None:
    await served.complete(temperature=0.7, top_p=0.9, top_k=40, seed=3, max_tokens=5, stop_token_ids=[33])
    await served.chat(max_completion_tokens=4, top_k=-1, ignore_eos=True)
    first, second = served.generator.requests
    assert first.sampling == types.SamplingParams(temperature=0.7, top_p=0.9, top_k=40, seed=3)
    assert (first.max_new_tokens, first.stop_token_ids) == (5, frozenset({33, 256}))
    assert second.sampling == types.SamplingParams(temperature=1.0)  # OpenAI's defaults
    assert (second.max_new_tokens, second.stop_token_ids) == (4, frozenset())


async def test_stop_tokens_that_the_model_cannot_give_go_no_further(served: Served) -> None:
    """Messages to the cloud carry 32 bits of each: a larger one was an internal error."""
    await served.complete(stop_token_ids=[33, 257, 2**32, 10**30])
    assert served.generator.requests[0].stop_token_ids == frozenset({33, 256})


async def test_limits_of_length(served: Served) -> None:
    assert (await served.complete(max_tokens=5)).json()["choices"][0] == {
        "index": 0,
        "text": "Hello",
        "logprobs": None,
        "finish_reason": "length",
    }
    await served.post("/v1/completions", prompt="say")
    await served.chat()
    assert [request.max_new_tokens for request in served.generator.requests] == [5, 16, 400 - 9]


@pytest.mark.parametrize(
    ("stop", "text", "completion_tokens"),
    [
        (["o, w"], "Hell", 8),  # spans three rounds
        ("Hello, world!", toys.ANSWER, 12),  # begins, never ends: held back, then shown
        (["world", "lo"], "Hel", 5),
        ([], toys.ANSWER, 12),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings(served: Served, stop: Any, text: str, completion_tokens: int, stream: bool) -> None:
    response = await served.complete(
        stop=stop, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})
    )
    if stream:
        *chunks, last = toys.events(response)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
        body = {"choices": [chunks[-1]["choices"][0]], "usage": last["usage"]}
    else:
        body = response.json()
        assert body["choices"][0]["text"] == text
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == completion_tokens
    assert (served.generator.open, served.generator.closed) == (0, 1)


async def test_characters_are_never_cut(served: Served) -> None:
    served.generator.answer, served.generator.per_round = "naïve 🎩 帽子", 1
    chunks = toys.events(await served.complete(stream=True))
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == "naïve 🎩 帽子"
    assert "\ufffd" not in "".join(texts)
    assert "🎩" in texts
    explained = (await served.complete(milliner={"explain": True})).json()["milliner"]["choices"][0]["tokens"]
    assert (
        b"".join(bytes(token.get("bytes", token["text"].encode())) for token in explained).decode() == "naïve 🎩 帽子"
    )
    cut = (await served.complete(max_tokens=9)).json()["choices"][0]["text"]  # in the middle of the hat
    assert cut.startswith("naïve \ufffd")


async def test_unsupported_fields_at_neutral_values_and_null_are_accepted(served: Served) -> None:
    neutral = {
        "user": "me",
        "metadata": {"a": "b"},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "tools": [],
        "response_format": {"type": "text"},
        "best_of": None,
        "stop": None,
        "max_tokens": None,
        "n": None,
        "min_tokens": 3,
        "ignore_eos": True,
    }
    assert (await served.chat(**neutral, max_completion_tokens=3)).status_code == 200
