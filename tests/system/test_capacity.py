"""Requests and the memory of both tiers, over real gRPC: what never fits is refused, what does not fit yet waits."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from tests.system import split_topology

from milliner.api import app, text_service, tokenizer
from milliner.core import clock, errors, types
from milliner.engine.device import device_model
from milliner.roles import probe
from milliner.strategies import options as strategy_options

POSITION_BYTES = 3 * 2 * 2 * 8 * 4  # the tiny model: 3 layers in the cloud, keys and values of 2 heads of 8 float32
SMALL, LARGE = 192 * POSITION_BYTES, 640 * POSITION_BYTES  # the model's context is 256


@contextlib.asynccontextmanager
async def served(
    model: pathlib.Path,
    *,
    kv_cache_bytes: Sequence[int],
    num_replicas: int = 1,
    max_running: int = 8,
    cloud_sessions: int = 256,
    max_open_wait_s: float = 30.0,
) -> AsyncIterator[tuple[httpx.AsyncClient, split_topology.SplitTopology]]:
    files = device_model.DeviceFiles(model, 1)
    async with split_topology.running(
        files,
        kv_cache_bytes=kv_cache_bytes,
        num_replicas=num_replicas,
        device_sessions=max_running,
        cloud_sessions=cloud_sessions,
    ) as topology:
        service = text_service.TextService(
            generator=topology.strategy(strategy_options.UShapeOptions(), max_open_wait_s=max_open_wait_s),
            codec=tokenizer.HuggingFaceTokenizer.load(model),
            model=text_service.ServedModel(name="tiny", max_positions=256, strategy="UShape"),
            clock=clock.LoopClock(),
            cloud_positions=lambda: topology.transport.max_positions,
        )
        application = app.create_app(
            service, clock=clock.LoopClock(), limits=app.Limits(max_running=max_running, max_wait_s=20.0)
        )
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://device", timeout=60) as client:
            yield client, topology
        service.close()


async def complete(client: httpx.AsyncClient, *, prompt_tokens: int, **body: object) -> httpx.Response:
    prompt = [1 + index % 200 for index in range(prompt_tokens)]
    return await client.post(
        "/v1/completions", json={"model": "tiny", "prompt": prompt, "temperature": 0, "ignore_eos": True, **body}
    )


async def test_a_request_that_can_never_fit_the_cloud_is_the_clients_to_mend(tiny_model: pathlib.Path) -> None:
    async with served(tiny_model, kv_cache_bytes=[SMALL]) as (client, _):
        # The first session is opened waiting for the answer, later ones without: both ways lead to the same refusal.
        for _ in range(2):
            refused = await complete(client, prompt_tokens=100, max_tokens=120)
            assert refused.status_code == 400
            error = refused.json()["error"]
            assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
            assert "prompt (100 tokens) and answer (120) exceed" in error["message"]
            assert "192" in error["message"]
            assert (await complete(client, prompt_tokens=100, max_tokens=2)).status_code == 200
        assert (await client.get("/v1/models")).json()["data"][0]["max_model_len"] == 192
        assert (await complete(client, prompt_tokens=200)).status_code == 400


async def test_an_answer_without_a_limit_fills_what_the_cloud_can_hold(tiny_model: pathlib.Path) -> None:
    async with split_topology.running(device_model.DeviceFiles(tiny_model, 1), kv_cache_bytes=[SMALL]) as topology:
        service = text_service.TextService(
            generator=topology.strategy(strategy_options.UShapeOptions()),
            codec=tokenizer.HuggingFaceTokenizer.load(tiny_model),
            model=text_service.ServedModel(name="tiny", max_positions=256, strategy="UShape"),
            clock=clock.LoopClock(),
            cloud_positions=lambda: topology.transport.max_positions,
        )
        assert service.max_positions == 256  # nobody has asked the cloud yet
        await split_topology.answer(topology.strategy(strategy_options.UShapeOptions()), [1, 2, 3], 1)
        assert service.max_positions == 192
        record, said = split_topology.new_record(180), 0
        async for delta in service.generate([1] * 180, text_service.TextOptions(ignore_eos=True), record):
            said += len(delta.tokens)
        assert said == 12
        with pytest.raises(errors.PromptTooLong, match="192"):
            async for _ in service.generate([1] * 192, text_service.TextOptions(), split_topology.new_record(192)):
                pass
        service.close()


async def test_a_replica_that_is_too_small_sends_the_request_on_to_a_larger_one(tiny_model: pathlib.Path) -> None:
    async with served(tiny_model, kv_cache_bytes=[SMALL, LARGE], num_replicas=2) as (client, _):
        for prompt_tokens, max_tokens in ((20, 2), (200, 2), (20, 2), (20, 2), (210, 3), (220, 30)):
            response = await complete(client, prompt_tokens=prompt_tokens, max_tokens=max_tokens)
            assert response.status_code == 200, response.text
        assert (await client.get("/v1/models")).json()["data"][0]["max_model_len"] == 256


async def test_a_cloud_that_is_full_for_now_says_when_to_come_back(tiny_model: pathlib.Path) -> None:
    async with served(tiny_model, kv_cache_bytes=[SMALL], max_open_wait_s=0.3) as (client, topology):
        engine = topology.replicas[0].engine
        held = types.SessionOpen("held", "", 0, 0, 32, max_positions=100)
        await engine.open(held)
        refused = await complete(client, prompt_tokens=90, max_tokens=10)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        await engine.close("held")
        assert (await complete(client, prompt_tokens=90, max_tokens=10)).status_code == 200


async def test_more_choices_than_the_device_has_room_for_are_all_answered(tiny_model: pathlib.Path) -> None:
    async with served(tiny_model, kv_cache_bytes=[LARGE], max_running=2) as (client, topology):
        both = await asyncio.gather(
            complete(client, prompt_tokens=50, max_tokens=6, n=5), complete(client, prompt_tokens=50, max_tokens=6)
        )
        texts = [choice["text"] for response in both for choice in response.json()["choices"]]
        assert len(texts) == 6
        assert len(set(texts)) == 1
        assert topology.device.used_share == 0.0


async def test_requests_wait_for_room_in_the_cloud(tiny_model: pathlib.Path) -> None:
    """A cloud with fewer sessions than the device has slots: 21 of 24 requests were refused within two seconds."""
    async with served(tiny_model, kv_cache_bytes=[LARGE], cloud_sessions=3) as (client, topology):
        said = await asyncio.gather(*(complete(client, prompt_tokens=20, max_tokens=4) for _ in range(24)))
        assert [response.status_code for response in said] == [200] * 24
        many = await complete(client, prompt_tokens=20, max_tokens=4, n=16)
        assert many.status_code == 200, many.text
        assert len({choice["text"] for choice in many.json()["choices"]}) == 1
        assert topology.device.used_share == 0.0


async def test_choices_wait_for_their_own_however_long_the_wait_for_others_is(tiny_model: pathlib.Path) -> None:
    async with served(tiny_model, kv_cache_bytes=[LARGE], cloud_sessions=1, max_open_wait_s=0.05) as (client, _):
        many = await complete(client, prompt_tokens=20, max_tokens=30, n=5)
        assert many.status_code == 200, many.text
        assert [len(choice["text"]) > 0 for choice in many.json()["choices"]] == [True] * 5


async def test_a_large_session_gets_its_room_under_a_steady_flow_of_small_ones(tiny_model: pathlib.Path) -> None:
    async with served(tiny_model, kv_cache_bytes=[SMALL]) as (client, _):
        ended = asyncio.Event()

        async def flow() -> None:
            while not ended.is_set():
                assert (await complete(client, prompt_tokens=20, max_tokens=20)).status_code == 200

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(flow())
            await asyncio.sleep(0.3)
            large = await complete(client, prompt_tokens=100, max_tokens=80)
            ended.set()
        assert large.status_code == 200, large.text


async def test_one_that_waits_for_the_cloud_may_leave(tiny_model: pathlib.Path) -> None:
    async with served(tiny_model, kv_cache_bytes=[LARGE], cloud_sessions=1) as (client, topology):
        engine = topology.replicas[0].engine
        await engine.open(types.SessionOpen("held", "", 0, 0, 32, max_positions=100))
        leaving = [asyncio.create_task(complete(client, prompt_tokens=20, max_tokens=4)) for _ in range(3)]
        await asyncio.sleep(0.2)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await engine.close("held")
        assert (await complete(client, prompt_tokens=20, max_tokens=4)).status_code == 200
        assert topology.device.used_share == 0.0


async def test_a_probe_of_a_full_cloud_does_not_wait_in_line(tiny_model: pathlib.Path) -> None:
    """That the cloud is full is an answer; a device whose probe waits for it would be called lost."""
    async with served(tiny_model, kv_cache_bytes=[LARGE], cloud_sessions=1) as (client, topology):
        await topology.replicas[0].engine.open(types.SessionOpen("held", "", 0, 0, 32, max_positions=100))
        strategy = topology.strategy(strategy_options.UShapeOptions())
        one = probe.Probe(strategy, vocab_size=topology.device.info.vocab_size, clock=clock.LoopClock())
        waiting = asyncio.create_task(complete(client, prompt_tokens=20, max_tokens=4))
        async with asyncio.timeout(5):
            with pytest.raises(errors.TooManySessions):
                await one.send()
        await topology.replicas[0].engine.close("held")
        assert (await waiting).status_code == 200


async def test_sessions_of_the_device_wait_for_one_another(tiny_model: pathlib.Path) -> None:
    """Without slots in front: the model itself never gives out more room than it has."""
    files = device_model.DeviceFiles(tiny_model, 1)
    async with split_topology.running(files, device_sessions=1) as topology:
        strategy = topology.strategy(strategy_options.UShapeOptions())
        prompt = list(range(1, 200))
        said = await asyncio.gather(*(split_topology.answer(strategy, prompt, 8) for _ in range(4)))
        assert all(tokens == said[0] for tokens in said)
        leaving = [asyncio.create_task(split_topology.answer(strategy, prompt, 50)) for _ in range(3)]
        await asyncio.sleep(0.05)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        async with asyncio.timeout(10):
            assert await split_topology.answer(strategy, prompt, 8) == said[0]


async def test_a_prompt_beyond_the_context_is_refused_before_anything_is_opened(tiny_model: pathlib.Path) -> None:
    async with split_topology.running(device_model.DeviceFiles(tiny_model, 1)) as topology:
        with pytest.raises(errors.PromptTooLong):
            await split_topology.answer(topology.strategy(strategy_options.UShapeOptions()), [1] * 250, 7)
        assert topology.replicas[0].engine.load().running_sessions == 0
