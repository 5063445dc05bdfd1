"""The cloud is llama.cpp's server: answers stay the unsplit model's, wherever they change tiers and whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import torch
import transformers
from scipy import stats
from tests.system import llama_server, role_processes, whole_tiers
from tests.system.test_whole_models import answer, device_ports, ids
from tests.wire import toy_tokens

from milliner.api import tokenizer
from milliner.contract import emulation, kinds, role_config
from milliner.core import clock, compute, errors, generation, types
from milliner.demo import assets
from milliner.model import sampling
from milliner.strategies import cloud_tokens, openings
from milliner.strategies import options as strategy_options
from milliner.strategies.cloud_only import strategy as cloud_only
from milliner.strategies.pd_device import strategy as pd_device
from milliner.wire.external import discovery, transport

NEW_TOKENS = 24
# The demo model's greedy answers to them: code, characters of two bytes, and more and more halves of characters.
PROMPTS = ("def main(", "🎩🎩🎩🎩🎩🎩🎩🎩🎩🎩", "é è ê ë é è ê ë é è ê ë é è")
SLOW_PREFILL = compute.ComputeCost(
    0.0, 0.005
)  # the server's first tokens are there before the device has read a prompt


@dataclasses.dataclass(frozen=True)
class Model:
    """The demo model: its GGUF, its tokenizer, what it answers when nothing is split."""

    gguf: pathlib.Path
    codec: tokenizer.HuggingFaceTokenizer
    whole: Any  # transformers' model, untyped
    answers: dict[tuple[str, int], list[int]] = dataclasses.field(default_factory=dict)

    def prompt(self, text: str) -> tuple[int, ...]:
        return tuple(self.codec.encode(text, add_special_tokens=False))

    def expected(self, text: str, new_tokens: int = NEW_TOKENS) -> list[int]:
        if (known := self.answers.get((text, new_tokens))) is not None:
            return known
        prompt = torch.tensor([self.prompt(text)])
        options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
        with torch.inference_mode():
            found = self.whole.generate(prompt, **options)
        answered: list[int] = found[0, prompt.shape[1] :].tolist()
        self.answers[text, new_tokens] = answered
        return answered


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("gguf") / "demo.gguf"
    llama_server.write_gguf(assets.model_dir(), path)
    codec = tokenizer.HuggingFaceTokenizer.load(assets.model_dir())
    whole = transformers.AutoModelForCausalLM.from_pretrained(assets.model_dir(), dtype=torch.float32)
    return Model(path, codec, whole)


@pytest.fixture(scope="module")
def server(model: Model) -> Iterator[llama_server.LlamaServer]:
    with llama_server.running(model.gguf) as found:
        yield found


@contextlib.asynccontextmanager
async def connected(model: Model, url: str) -> AsyncIterator[transport.ExternalTransport]:
    compared = discovery.Tokenizer(
        reference_ids=tuple(model.codec.encode(discovery.REFERENCE_TEXT, add_special_tokens=False)),
        vocab_size=model.codec.vocab_size,
        decode=model.codec.decode,
    )
    found = transport.ExternalTransport(role_config.ExternalServer(url=url), tokenizer=compared)
    try:
        yield found
    finally:
        await found.close()


def ports(device: whole_tiers.Tier, cloud: transport.ExternalTransport) -> cloud_tokens.CloudPorts:
    return cloud_tokens.CloudPorts(
        clock=clock.LoopClock(),
        transport=cloud,
        info=device.model.info,
        new_session_id=lambda: secrets.token_hex(8),
        openings=openings.Openings(max_wait_s=5.0),
        max_positions=lambda: cloud.max_positions,
    )


def handing_over(
    device: whole_tiers.Tier, cloud: transport.ExternalTransport, *, cloud_tokens_max: int
) -> pd_device.PDDevice:
    options = strategy_options.PDDeviceOptions(
        max_cloud_tokens=cloud_tokens_max, fixed_cloud_tokens=True, min_interval_s=0.0, max_interval_s=0.002
    )
    return pd_device.PDDevice(ports(device, cloud), device_ports(device), options)


async def test_the_answer_is_the_models_wherever_the_device_takes_over(
    model: Model, server: llama_server.LlamaServer
) -> None:
    async with (
        connected(model, server.url) as cloud,
        whole_tiers.tier(assets.model_dir(), origin=types.TokenOrigin.DEVICE, cost=SLOW_PREFILL) as device,
    ):
        assert (await cloud.find()).dialect.name == "llama.cpp /completion"
        from_cloud = set()
        for text in PROMPTS:
            expected = model.expected(text)
            for most in (1, 2, 5, 13, 24):
                tokens, reason = await answer(handing_over(device, cloud, cloud_tokens_max=most), model.prompt(text))
                assert ids(tokens) == expected, (text, most)
                assert reason is types.FinishReason.LENGTH
                given = [token.origin for token in tokens].count(types.TokenOrigin.CLOUD)
                assert given <= most
                from_cloud.add(given)
        assert len(from_cloud) > 1, "the server gave first tokens"


async def test_the_server_alone_gives_the_models_answer(model: Model, server: llama_server.LlamaServer) -> None:
    async with (
        connected(model, server.url) as cloud,
        whole_tiers.tier(assets.model_dir(), origin=types.TokenOrigin.DEVICE) as device,
    ):
        strategy = cloud_only.CloudOnly(ports(device, cloud), strategy_options.RecoveryOptions(wait_s=0.0))
        for text in PROMPTS:
            expected = model.expected(text)
            tokens, _ = await answer(strategy, model.prompt(text))
            assert ids(tokens) == expected
            stop = expected[20]
            tokens, reason = await answer(strategy, model.prompt(text), stop_token_ids=frozenset({stop, 0}))
            assert ids(tokens) == expected[: expected.index(stop)]
            assert reason is types.FinishReason.STOP


async def test_stop_frees_the_servers_slot(model: Model, server: llama_server.LlamaServer) -> None:
    async with connected(model, server.url) as cloud, httpx.AsyncClient(trust_env=False) as client:

        async def computing() -> list[bool]:
            slots = await client.get(server.url.replace("/v1", "/slots"), timeout=30)
            return [slot["is_processing"] for slot in slots.json()]

        sampler = generation.Sampler(types.SamplingParams(), seed=0)
        request = generation.GenerationOpen("s", "", "", model.prompt(PROMPTS[0]), 1000, sampler)
        stream = await cloud.open(request)
        await stream.receive()
        await stream.set_limit(1)
        async with asyncio.timeout(60):
            while any(await computing()):
                await asyncio.sleep(0.05)
        found: list[generation.CloudToken] = []
        with pytest.raises(errors.ProtocolError, match="no more"):
            await toy_tokens.follow(stream, found)
        assert len(found) < 999, "the server was stopped"
        await stream.close()


async def test_a_server_that_is_killed_and_comes_back_goes_on(model: Model) -> None:
    text, length = PROMPTS[0], 200
    expected = model.expected(text, length)
    async with contextlib.AsyncExitStack() as stack:
        first = stack.enter_context(llama_server.running(model.gguf))
        cloud = await stack.enter_async_context(connected(model, first.url))
        device = await stack.enter_async_context(whole_tiers.tier(assets.model_dir(), origin=types.TokenOrigin.DEVICE))
        strategy = cloud_only.CloudOnly(
            ports(device, cloud), strategy_options.RecoveryOptions(wait_s=60.0, retry_s=0.05)
        )
        answering = asyncio.create_task(answer(strategy, model.prompt(text), new_tokens=length))
        await cloud.find()
        await asyncio.sleep(0.2)
        first.kill()
        await asyncio.to_thread(stack.enter_context, llama_server.running(model.gguf, port=first.port))
        tokens, _ = await answering
        assert ids(tokens) == expected


async def test_the_device_goes_on_when_the_server_is_killed(model: Model) -> None:
    text, length = PROMPTS[0], 60
    async with whole_tiers.tier(assets.model_dir(), origin=types.TokenOrigin.DEVICE, cost=SLOW_PREFILL) as device:
        for after_s in (0.0, 0.02, 0.1):
            with llama_server.running(model.gguf) as server:
                async with connected(model, server.url) as cloud:
                    await cloud.find()
                    strategy = handing_over(device, cloud, cloud_tokens_max=length)
                    answering = asyncio.create_task(answer(strategy, model.prompt(text), new_tokens=length))
                    await asyncio.sleep(after_s)
                    server.kill()
                    tokens, _ = await answering
                    assert ids(tokens) == model.expected(text, length)
                    assert await cloud.why_unreachable()


def test_a_device_process_with_its_first_tokens_from_the_server(
    model: Model, server: llama_server.LlamaServer, tmp_path: pathlib.Path
) -> None:
    whole = emulation.WholeModelCost(prompt_token_microseconds=5_000, step_microseconds=1_000)
    config = role_config.WholeDeviceRoleConfig(
        topology="t",
        name="device",
        pool="pool",
        model=role_config.ModelFiles(path=str(assets.model_dir()), served_name="tiny", dtype=kinds.Dtype.FLOAT32),
        layers=8,
        torch_threads=1,
        strategy=role_config.WholeStrategy(type=kinds.StrategyType.PD_DEVICE),
        external=role_config.ExternalServer(url=server.url, model="demo.gguf"),
        emulation=emulation.DeviceEmulation(compute=emulation.DeviceCompute(whole_model=whole)),
    )
    with role_processes.running(config, tmp_path) as role:
        device = role_processes.Device(role)
        assert device.answer(NEW_TOKENS) == model.expected("hello")
        assert "prompts are not refined" in role.log.read_text()


async def test_sampled_tokens_are_distributed_as_the_models(model: Model, server: llama_server.LlamaServer) -> None:
    params = types.SamplingParams(temperature=1.4, top_k=12, top_p=0.9)
    prompt = model.prompt("def ")
    with torch.inference_mode():
        logits = model.whole(torch.tensor([prompt])).logits[0, -1:]
    shares = sampling.log_distribution(logits, params)[0].exp()
    likely = shares.nonzero()[:, 0].tolist()
    counts = dict.fromkeys(likely, 0)
    async with connected(model, server.url) as cloud:
        for seed in range(400):  # the same ones each time: the outcome does not change from run to run
            request = generation.GenerationOpen("s", "", "", prompt, 1, generation.Sampler(params, seed=seed))
            stream = await cloud.open(request)
            found = (await stream.receive()).step.token.token_id
            counts[found] = counts.get(found, 0) + 1
            await stream.close()
    assert len(likely) > 4, "the filters leave a choice"
    assert len(counts) == len(likely), "nothing that they rule out came"
    expected = [shares[token].item() * 400 for token in likely]
    assert stats.chisquare([counts[token] for token in likely], expected).pvalue > 1e-3


async def test_another_model_behind_the_address_is_named(model: Model, server: llama_server.LlamaServer) -> None:
    other = discovery.Tokenizer(reference_ids=(1, 2, 3), vocab_size=4096, decode=model.codec.decode)
    cloud = transport.ExternalTransport(role_config.ExternalServer(url=server.url), tokenizer=other)
    with pytest.raises(errors.DigestMismatch, match="another tokenizer"):
        await cloud.find()
    await cloud.close()
