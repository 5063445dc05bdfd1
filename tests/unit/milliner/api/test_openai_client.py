"""What the `openai` client asks for beyond a plain answer: understood with the shapes it reads, or refused by name."""

from __future__ import annotations

import collections
from typing import Any

import openai
import pytest
from tests.unit.milliner.api.conftest import Served

MESSAGES: Any = [{"role": "user", "content": "say"}]
NUM_PROMPT_TOKENS = len("<user>say")


async def test_three_streamed_choices_each_have_role_text_end_and_the_usage_counts_the_prompt_once(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.chat.completions.create(
        model="toy",
        messages=MESSAGES,
        n=3,
        stream=True,
        logprobs=True,
        top_logprobs=2,
        max_completion_tokens=5,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    texts: dict[int, str] = collections.defaultdict(str)
    ends: dict[int, str] = {}
    scores: collections.Counter[int] = collections.Counter()
    roles = [choice.delta.role for chunk in chunks for choice in chunk.choices if choice.delta.role]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        assert choice.index not in ends, "nothing after the end"
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
        for scored in (choice.logprobs.content or []) if choice.logprobs else []:
            scores[choice.index] += 1
            assert (scored.logprob, len(scored.top_logprobs)) == (-0.5, 2)
            assert bytes(scored.bytes or []) == scored.token.encode()
    assert roles == ["assistant"] * 3
    assert texts == {0: "Hello", 1: "Hello", 2: "Hello"}
    assert ends == {0: "length", 1: "length", 2: "length"}
    assert scores == {0: 5, 1: 5, 2: 5}
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (NUM_PROMPT_TOKENS, 15)
    assert (usage.total_tokens, chunks[-1].choices) == (NUM_PROMPT_TOKENS + 15, [])


async def test_every_chunk_says_what_was_used_so_far_where_that_is_asked_for(client: openai.AsyncOpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = await client.completions.create(
        model="toy", prompt="say", max_tokens=7, stream=True, stream_options=options
    )
    used = [chunk.usage.completion_tokens if chunk.usage else -1 async for chunk in stream]
    assert used == sorted(used)
    assert (used[0], used[-1]) == (3, 7)


async def test_four_stop_strings_end_an_answer_and_are_no_part_of_it(client: openai.AsyncOpenAI) -> None:
    stop = ["nowhere", "world", "lo, w", "zzz"]
    said = await client.chat.completions.create(model="toy", messages=MESSAGES, stop=stop)
    assert (said.choices[0].message.content, said.choices[0].finish_reason) == ("Hel", "stop")
    assert said.choices[0].logprobs is None
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="toy", messages=MESSAGES, stop=[*stop, "fifth"])
    assert refused.value.param == "stop"


async def test_a_completion_has_prompt_scores_and_token_ids(client: openai.AsyncOpenAI) -> None:
    echoed = await client.completions.create(model="toy", prompt="say", max_tokens=3, echo=True, n=2)
    assert [choice.text for choice in echoed.choices] == ["sayHel"] * 2
    scored = await client.completions.create(
        model="toy", prompt="say", max_tokens=3, logprobs=2, extra_body={"return_token_ids": True}
    )
    logprobs = scored.choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["H", "e", "l"], [0, 1, 2])
    assert logprobs.token_logprobs == [-0.5] * 3
    assert logprobs.top_logprobs == [{token: -0.5, "z": -2.0} for token in "Hel"]
    extra = scored.choices[0].model_extra or {}
    assert (bytes(extra["token_ids"]), bytes(extra["prompt_token_ids"])) == (b"Hel", b"say")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [TOOL["function"]]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}, "response_format"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logprobs": 3}, "logprobs"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"echo": True}, "echo"),
        ({"guided_json": {}}, "guided_json"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [TOOL]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
        ),
    ],
)
async def test_a_chat_that_asks_for_more_is_refused_by_name(
    client: openai.AsyncOpenAI, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="toy", messages=MESSAGES, extra_body=body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"best_of": 2}, "best_of"),
        ({"suffix": "and then"}, "suffix"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [TOOL]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
async def test_a_completion_that_asks_for_more_is_refused_by_name(
    client: openai.AsyncOpenAI, body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model="toy", prompt="say", extra_body=body)
    assert refused.value.param == param


async def test_what_switches_a_feature_off_is_no_reason_to_refuse(client: openai.AsyncOpenAI) -> None:
    body = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logit_bias": {},
        "best_of": 1,
        "max_tokens": 5,
        "max_completion_tokens": 5,
        "messages": [*MESSAGES, {"role": "assistant", "content": "x", "tool_calls": []}, *MESSAGES],
    }
    said = await client.chat.completions.create(model="toy", messages=MESSAGES, extra_body=body)
    assert said.choices[0].message.content == "Hello"
    assert said.choices[0].message.tool_calls is None


async def test_what_was_not_computed_again_is_told_once_for_each_prompt(
    served: Served, client: openai.AsyncOpenAI
) -> None:
    served.generator.cached_tokens = (32, 0, 64, 96)  # two answers to each of two prompts
    answer = await client.completions.create(model="toy", prompt=["say", "tell"], n=2, max_tokens=3)
    assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0 + 64


async def test_a_stream_tells_it_as_well(served: Served, client: openai.AsyncOpenAI) -> None:
    served.generator.cached_tokens = (6,)
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = await client.chat.completions.create(
        model="toy", messages=MESSAGES, stream=True, max_completion_tokens=5, stream_options=options
    )
    used = [chunk.usage for chunk in [chunk async for chunk in stream]]
    details = [each.prompt_tokens_details for each in used if each is not None]
    assert [each.cached_tokens for each in details if each is not None] == [6] * len(used)


async def test_requests_without_keys_share_unless_they_name_a_salt(served: Served, client: openai.AsyncOpenAI) -> None:
    for body in ({}, {}, {"cache_salt": "ours"}, {"cache_salt": "ours"}, {"cache_salt": "mine"}):
        await client.completions.create(model="toy", prompt="say", max_tokens=3, extra_body=body)
    first, second, ours, again, mine = (request.cache_salt for request in served.generator.requests)
    assert (first, second) == ("", "")
    assert ours == again
    assert len({first, ours, mine}) == 3
