"""Answers of engines that others wrote, in each dialect: order, limits, stop tokens, ids that a server keeps back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import AsyncIterator

import pytest
from tests.wire import engine_stand_in, toy_tokens
from tests.wire.conftest import eventually
from tests.wire.engine_stand_in import Speaks, StandIn

from milliner.api import schema
from milliner.contract import role_config
from milliner.core import errors, generation, types
from milliner.wire.external import dialects, discovery, openai, transport
from milliner.wire.external import server as servers

DIALECTS = [each for each in Speaks if each is not Speaks.TEXT]
TOKENIZER = discovery.Tokenizer(
    reference_ids=tuple(engine_stand_in.reference_ids()),
    vocab_size=engine_stand_in.VOCAB_SIZE,
    decode=engine_stand_in.text_of,
)


@contextlib.asynccontextmanager
async def connected(
    stand_in: StandIn,
    *,
    model: str | None = None,
    key_file: pathlib.Path | None = None,
    timeouts: servers.Timeouts = servers.DEFAULT_TIMEOUTS,
) -> AsyncIterator[transport.ExternalTransport]:
    async with engine_stand_in.serving(stand_in) as url:
        config = role_config.ExternalServer(url=url, model=model, api_key_file=key_file and str(key_file))
        found = transport.ExternalTransport(config, tokenizer=TOKENIZER, timeouts=timeouts)
        try:
            yield found
        finally:
            await found.close()


def wanted(max_tokens: int = 5, *, stops: frozenset[int] = frozenset(), **changes: object) -> generation.GenerationOpen:
    one = toy_tokens.token_open(max_tokens=max_tokens, prompt=(200, 100))
    return dataclasses.replace(one, stop_token_ids=stops, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_tokens_come_in_order_and_the_last_says_so(speaks: Speaks) -> None:
    async with connected(StandIn(speaks)) as cloud:
        stream = await cloud.open(wanted(20))
        assert await toy_tokens.the_rest(stream) == list(range(101, 121))
        with pytest.raises(errors.ProtocolError, match="no more"):
            await stream.receive()
        await stream.close()
        assert cloud.max_positions == stream.opened.max_positions == 500


@pytest.mark.parametrize("speaks", DIALECTS)
@pytest.mark.parametrize("leaves_out", [False, True])
async def test_a_stop_token_is_the_last_one_whether_the_server_shows_it_or_not(
    speaks: Speaks, leaves_out: bool
) -> None:
    stand_in = StandIn(speaks)
    stand_in.leaves_stop_out = leaves_out
    async with connected(stand_in) as cloud:
        stream = await cloud.open(wanted(20, stops=frozenset({engine_stand_in.END}), prompt_ids=(96,)))
        assert await toy_tokens.the_rest(stream) == [97, 98, 99]


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_a_stop_token_that_the_server_does_not_know_ends_the_answer_too(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    async with connected(stand_in) as cloud:
        stream = await cloud.open(wanted(300, stops=frozenset({104, 400})))
        assert await toy_tokens.the_rest(stream) == [101, 102, 103, 104]
        await eventually(lambda: len(stand_in.ended) == len(stand_in.given))


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_the_end_of_text_is_passed_by_where_it_is_no_stop_token(speaks: Speaks) -> None:
    async with connected(StandIn(speaks)) as cloud:
        stream = await cloud.open(wanted(4, prompt_ids=(97,)))
        assert await toy_tokens.the_rest(stream) == [98, 99, 100, 101]


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_stop_closes_the_connection_and_the_server_computes_no_more(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.gate.clear()
        stand_in.free = 3
        stream = await cloud.open(wanted(400))
        assert [(await stream.receive()).index for _ in range(3)] == [0, 1, 2]
        await stream.set_limit(2)
        await eventually(lambda: len(stand_in.ended) == len(stand_in.given))
        assert stand_in.given[-1] == 3
        with pytest.raises(errors.ProtocolError, match="3 tokens and no more"):
            await stream.receive()


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_closing_ends_the_answer_on_the_server(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.gate.clear()
        stream = await cloud.open(wanted(400))
        await stream.close()
        await stream.close()
        await eventually(lambda: len(stand_in.ended) == len(stand_in.given))
        with pytest.raises(errors.UnavailableError, match="closed on this side"):
            await stream.receive()


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_more_tokens_go_on_where_the_first_request_ended(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    async with connected(stand_in) as cloud:
        await cloud.find()
        looked = len(stand_in.given)
        stand_in.gate.clear()
        stream = await cloud.open(wanted(3))
        await stream.set_limit(8)
        await stream.set_limit(10_000)  # the server has no room for that: nothing changes
        stand_in.gate.set()
        assert await toy_tokens.the_rest(stream) == list(range(101, 109))
        assert len(stand_in.given) == looked + 2


@pytest.mark.parametrize("speaks", DIALECTS)
@pytest.mark.parametrize("stops", [frozenset[int](), frozenset({110})])
async def test_events_may_bring_several_tokens(speaks: Speaks, stops: frozenset[int]) -> None:
    stand_in = StandIn(speaks)
    stand_in.per_event = 7
    async with connected(stand_in) as cloud:
        stream = await cloud.open(wanted(20, stops=stops))
        assert await toy_tokens.the_rest(stream) == list(range(101, 111 if stops else 121))


@pytest.mark.parametrize("speaks", [Speaks.VLLM, Speaks.VLLM_BEFORE])
async def test_ids_that_a_stream_leaves_out_of_its_text_are_asked_for(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.hidden = {103, 104, 115}
        assert await toy_tokens.the_rest(await cloud.open(wanted(20))) == list(range(101, 121))


async def test_ids_of_half_characters_are_asked_for_again() -> None:
    stand_in = StandIn(Speaks.LLAMA_CPP)
    stand_in.half_characters = {103, 104, 105, 130, 140}
    async with connected(stand_in) as cloud:
        stream = await cloud.open(wanted(40))
        assert await toy_tokens.the_rest(stream) == list(range(101, 141))


@pytest.mark.parametrize(
    ("max_tokens", "prompt_tokens", "field", "remedy"),
    [(499, 2, "max_tokens", "ask for at most 498 tokens"), (1, 500, "prompt", "shorten the prompt")],
)
async def test_what_the_server_cannot_hold_is_not_sent(
    max_tokens: int, prompt_tokens: int, field: str, remedy: str
) -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await cloud.find()
        asked = len(stand_in.bodies)
        with pytest.raises(errors.PromptTooLong, match="exceed the 500") as refused:
            await cloud.open(wanted(max_tokens, prompt_ids=(100,) * prompt_tokens))
        assert (refused.value.field, len(stand_in.bodies)) == (field, asked)
        assert refused.value.message.endswith(remedy)


@pytest.mark.parametrize("speaks", [each for each in DIALECTS if each is not Speaks.LLAMA_CPP])
async def test_log_probabilities_come_along(speaks: Speaks) -> None:
    sampler = generation.Sampler(types.SamplingParams(), seed=7, num_logprobs=2)
    async with connected(StandIn(speaks)) as cloud:
        stream = await cloud.open(wanted(2, sampler=sampler))
        token = (await stream.receive()).step.token
        assert token.logprob == -0.25
        assert len(token.top_logprobs) == 2


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_sampling_and_salt_are_asked_for_in_the_servers_words(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    sampler = generation.Sampler(types.SamplingParams(temperature=0.7, top_p=0.9, top_k=40), seed=2**62 + 5)
    async with connected(stand_in) as cloud:
        stream = await cloud.open(wanted(2, sampler=sampler, salt="tenant"))
        await toy_tokens.the_rest(stream)
    body = stand_in.bodies[-1]
    params = getattr(body, "sampling_params", body)
    assert (params.temperature, params.top_p, params.top_k) == (0.7, 0.9, 40)
    told_apart = getattr(body, "cache_salt", None) or getattr(body, "extra_key", None)
    assert told_apart == "tenant" or body.cache_prompt is False


async def test_llama_cpp_shares_no_prompt_once_a_salt_was_seen_but_an_answers_own() -> None:
    stand_in = StandIn(Speaks.LLAMA_CPP)
    async with connected(stand_in) as cloud:
        await cloud.find()

        async def shares(salt: str) -> list[bool]:
            """Of the two requests of an answer that is extended."""
            stand_in.gate.clear()
            stream = await cloud.open(wanted(2, salt=salt))
            await stream.set_limit(4)
            stand_in.gate.set()
            assert await toy_tokens.the_rest(stream) == [101, 102, 103, 104]
            return [body.cache_prompt for body in stand_in.bodies[-2:]]

        assert await shares("") == [True, True]
        assert await shares("tenant") == [False, True]
        assert await shares("") == [False, True]


@pytest.mark.parametrize("takes_seeds", [True, False])
async def test_sglang_is_given_a_seed_where_it_takes_one(takes_seeds: bool) -> None:
    stand_in = StandIn(Speaks.SGLANG)
    stand_in.takes_seeds = takes_seeds
    sampler = generation.Sampler(types.SamplingParams(temperature=0.7), seed=2**62 + 5)
    async with connected(stand_in) as cloud:
        assert await toy_tokens.the_rest(await cloud.open(wanted(2, sampler=sampler))) == [101, 102]
    assert stand_in.bodies[-1].sampling_params.sampling_seed == (5 if takes_seeds else None)


async def test_the_key_is_read_anew_and_the_trace_goes_along(tmp_path: pathlib.Path) -> None:
    stand_in = StandIn(Speaks.VLLM)
    stand_in.key = "first"
    key_file = tmp_path / "key"
    key_file.write_text("first\n")
    async with connected(stand_in, key_file=key_file) as cloud:
        await toy_tokens.the_rest(await cloud.open(wanted(traceparent="00-1-2-01")))
        assert stand_in.headers[-1]["traceparent"] == "00-1-2-01"
        stand_in.key = "second"
        with pytest.raises(errors.ProtocolError, match="Unauthorized") as refused:
            await cloud.open(wanted())
        assert refused.value.field == "cloud.engine.external.apiKeySecretRef"
        key_file.write_text("second")
        assert await toy_tokens.the_rest(await cloud.open(wanted())) == [101, 102, 103, 104, 105]


async def test_many_answers_at_once() -> None:
    async with connected(StandIn(Speaks.VLLM)) as cloud, asyncio.TaskGroup() as group:

        async def one(first: int) -> None:
            stream = await cloud.open(wanted(30, prompt_ids=(first,)))
            assert await toy_tokens.the_rest(stream) == list(range(first + 1, first + 31))
            await stream.close()

        for first in range(100, 130):
            group.create_task(one(first))


def test_a_device_of_ours_can_be_the_engine_of_another() -> None:
    sampled = types.SamplingParams(temperature=0.7, top_p=0.9, top_k=40)
    for sampler in (toy_tokens.SAMPLER, generation.Sampler(sampled, seed=2**63 - 1)):
        asked = dialects.Asked("demo", (1, 2, 3), 9, sampler, stop_token_ids=frozenset({0}), salt="tenant")
        body = openai.Completions(in_logprobs=False).body(asked, stream=True)
        understood = schema.parse(schema.CompletionRequest, json.loads(json.dumps(body)))
        assert understood.prompts == [[1, 2, 3]]
        assert (understood.max_tokens, understood.stop_token_ids, understood.return_token_ids) == (9, [0], True)
