"""Hand-overs between tiers that are not alike: a refined prompt, a smaller model, a link that falls silent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import secrets

import pytest
import torch
import transformers
from tests.system import split_topology, test_tokens_over_the_wire, test_whole_models, whole_tiers

from milliner.core import clock, compute, errors, generation, types
from milliner.strategies import cloud_tokens
from milliner.strategies import options as strategy_options
from milliner.strategies.cloud_only import strategy as cloud_only
from milliner.strategies.pd_device import settings
from milliner.strategies.pd_device import strategy as pd_device
from milliner.wire import client, emulated_link, link_schedule, server

PROMPT = tuple((7 * index * index + 3 * index) % 60 + 1 for index in range(150))
NEW_TOKENS = test_whole_models.NEW_TOKENS
CLOUD = types.TokenOrigin.CLOUD
answer, ids = test_whole_models.answer, test_whole_models.ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("whole"), split_layer=2, deep_share=1.0)
    return written


class Kept(whole_tiers.DirectTransport):
    """Remembers what the cloud keeps of a prompt, or with `refines` False is a cloud that does not."""

    refines = True
    kept: tuple[tuple[int, int], ...] | None = None

    async def open(self, request: generation.GenerationOpen) -> whole_tiers.DirectStream:
        stream = await super().open(request)
        receive = stream.receive

        async def watched() -> generation.CloudToken:
            token = await receive()
            if token.index == 0:
                self.kept = token.kept if self.refines else None
            return token if self.refines else generation.CloudToken(token.index, token.step, token.last)

        stream.receive = watched  # type: ignore[method-assign]
        return stream


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "begins at once"])
async def test_with_a_refined_prompt_the_device_goes_on_from_what_is_kept(
    folder: pathlib.Path, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = settings.Settings(cloud_tokens=6, kept_share=0.4, waits=waits, holds_back=True)
    monkeypatch.setattr(settings, "choose", lambda *_: wanted)
    reference = split_topology.reference(folder, PROMPT, NEW_TOKENS)
    slow = compute.ComputeCost(0.005, 0.002)  # of the device: it has not seen the prompt when the first token comes
    async with (
        whole_tiers.tier(folder, origin=CLOUD) as cloud,
        whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE, cost=slow) as device,
    ):
        transport = Kept(whole_tiers.service(cloud))
        strategy = pd_device.PDDevice(
            test_whole_models.cloud_ports(cloud, transport), test_whole_models.device_ports(device), TWENTY_MS
        )
        be_patient(strategy)
        tokens, _ = await answer(strategy, PROMPT)
        num_cloud = sum(token.origin is CLOUD for token in tokens)
        assert num_cloud == 6
        assert ids(tokens)[:num_cloud] == reference[:num_cloud]
        assert transport.kept is not None
        seen = [position for start, end in transport.kept for position in range(start, end)]
        assert ids(tokens)[num_cloud:] in continuations(folder, seen, ids(tokens)[:num_cloud], waits=waits)

        transport.refines = False
        be_patient(strategy)
        tokens, _ = await answer(strategy, (*PROMPT[1:], 7))
        assert ids(tokens) == split_topology.reference(folder, (*PROMPT[1:], 7), NEW_TOKENS), "a cloud that does not"
        transport.lose_after = 0
        tokens, _ = await answer(strategy, (*PROMPT[2:], 7, 8))
        assert ids(tokens) == split_topology.reference(folder, (*PROMPT[2:], 7, 8), NEW_TOKENS), "a cloud that is lost"
        assert cloud.engine.load().running_sessions == device.engine.load().running_sessions == 0


def be_patient(strategy: pd_device.PDDevice) -> None:
    """A cloud that a busy machine delays is waited for, as if the device were slow: hand-overs are where they should
    be."""
    strategy._profile.step_s = 10.0
    strategy._profile.cloud_first_token(len(PROMPT), 5.0)


def continuations(folder: pathlib.Path, kept: list[int], given: list[int], *, waits: bool) -> list[list[int]]:
    """What may follow: who did not wait had seen some of the prompt's beginning as it is."""
    begun = [0] if waits else range(32, len(PROMPT) + 1, 32)
    prompts = [[*range(start), *(each for each in kept if each >= start)] for start in begun]
    return [
        split_topology.reference(folder, (*(PROMPT[each] for each in prompt), *given), NEW_TOKENS - len(given))
        for prompt in prompts
    ]


TWENTY_MS = strategy_options.PDDeviceOptions(max_cloud_tokens=NEW_TOKENS, min_interval_s=0.0, max_interval_s=0.02)


async def test_a_smaller_model_goes_on_from_the_larger_ones_tokens(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = 1
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    slow = compute.ComputeCost(0.005, 0.001)
    async with (
        whole_tiers.tier(folder, origin=CLOUD) as cloud,
        whole_tiers.tier(tmp_path, origin=types.TokenOrigin.DEVICE, cost=slow) as device,
    ):
        transport = whole_tiers.DirectTransport(whole_tiers.service(cloud))
        for given in (1, 9):
            options = strategy_options.PDDeviceOptions(
                max_cloud_tokens=given, fixed_cloud_tokens=True, min_interval_s=0.0, max_interval_s=0.02
            )
            strategy = pd_device.PDDevice(
                test_whole_models.cloud_ports(cloud, transport), test_whole_models.device_ports(device), options
            )
            be_patient(strategy)
            tokens, _ = await answer(strategy, PROMPT)
            assert ids(tokens)[:given] == split_topology.reference(folder, PROMPT, given)
            assert sum(token.origin is CLOUD for token in tokens) == given
            prompt = (*PROMPT, *ids(tokens)[:given])
            assert ids(tokens)[given:] == split_topology.reference(tmp_path, prompt, NEW_TOKENS - given)


class Padded(whole_tiers.DirectTransport):
    """A cloud whose embedding has rows that the device's model lacks; it chooses one of them as token `at`."""

    at = 0

    async def open(self, request: generation.GenerationOpen) -> whole_tiers.DirectStream:
        stream = await super().open(request)
        receive = stream.receive

        async def beyond() -> generation.CloudToken:
            token = await receive()
            if token.index < self.at:
                return token
            chosen = dataclasses.replace(token.step.token, token_id=100_000)
            return dataclasses.replace(token, step=dataclasses.replace(token.step, token=chosen))

        stream.receive = beyond  # type: ignore[method-assign]
        return stream


async def test_from_a_token_that_the_device_cannot_read_it_goes_on_alone(folder: pathlib.Path) -> None:
    reference = split_topology.reference(folder, PROMPT, NEW_TOKENS)
    options = strategy_options.PDDeviceOptions(
        max_cloud_tokens=9, fixed_cloud_tokens=True, min_interval_s=0.0, max_interval_s=0.02
    )
    async with (
        whole_tiers.tier(folder, origin=CLOUD) as cloud,
        whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE) as device,
    ):
        transport = Padded(whole_tiers.service(cloud))
        for transport.at in (0, 4):
            strategy = pd_device.PDDevice(
                test_whole_models.cloud_ports(cloud, transport), test_whole_models.device_ports(device), options
            )
            be_patient(strategy)
            tokens, _ = await answer(strategy, PROMPT)
            assert ids(tokens) == reference
            assert sum(token.origin is CLOUD for token in tokens) == transport.at
        await test_tokens_over_the_wire.all_freed(cloud)


async def test_token_ids_of_another_tokenizer_are_refused_by_name(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=CLOUD) as cloud:
        service = whole_tiers.service(cloud)
        foreign = generation.GenerationOpen(
            session_id="s",
            model_digest="",
            tokenizer_digest="sha256:" + "1" * 64,
            prompt_ids=PROMPT,
            max_tokens=1,
            sampler=generation.Sampler(types.SamplingParams(), seed=0),
        )
        with pytest.raises(errors.DigestMismatch, match="use models with the same tokenizer") as refused:
            await service.open(foreign)
        assert refused.value.field == "tokenizer_digest"


async def test_five_seconds_without_a_link_cost_time_and_no_token(folder: pathlib.Path) -> None:
    conditions = link_schedule.LinkConditions(
        uplink_bytes_per_s=1e7, downlink_bytes_per_s=1e7, round_trip_s=0.002, jitter_s=0.0
    )
    reference = split_topology.reference(folder, test_whole_models.PROMPT, NEW_TOKENS)
    async with contextlib.AsyncExitStack() as stack:
        step = compute.ComputeCost(0.05, 0.0)  # an answer takes more than a second: the link is lost in its middle
        cloud = await stack.enter_async_context(whole_tiers.tier(folder, origin=CLOUD, cost=step))
        slow = compute.ComputeCost(0.01, 0.02)
        device = await stack.enter_async_context(whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE, cost=slow))
        running = await stack.enter_async_context(await server.serve(tokens=whole_tiers.service(cloud)))
        link = await stack.enter_async_context(emulated_link.EmulatedLink("127.0.0.1", running.port, conditions))
        transport = await stack.enter_async_context(client.GrpcTokenTransport([f"127.0.0.1:{link.port}"]))
        reached = cloud_tokens.CloudPorts(
            clock=clock.LoopClock(),
            transport=transport,
            info=cloud.model.info,
            new_session_id=lambda: secrets.token_hex(16),
        )
        cloud_alone = cloud_only.CloudOnly(reached, strategy_options.RecoveryOptions(wait_s=30.0, retry_s=0.1))
        options = strategy_options.PDDeviceOptions(max_cloud_tokens=NEW_TOKENS, max_interval_s=0.08)
        handing_over = pd_device.PDDevice(reached, test_whole_models.device_ports(device), options)
        answers = [asyncio.create_task(answer(each)) for each in (cloud_alone, handing_over)]
        async with asyncio.timeout(20):
            while cloud.engine.load().running_sessions < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)  # some tokens of 24
        link.cut()
        waited, went_on = answers
        tokens, _ = await went_on
        assert ids(tokens) == reference
        assert tokens[-1].origin is types.TokenOrigin.DEVICE
        await asyncio.sleep(5.0)
        assert not waited.done(), "it has no model of its own"
        link.mend()
        tokens, _ = await waited
        assert ids(tokens) == reference
        async with asyncio.timeout(20):
            for new in range(1, 60):  # a prompt that the device has not computed yet
                tokens, _ = await answer(handing_over, (new, *test_whole_models.PROMPT), new_tokens=3)
                if tokens[0].origin is CLOUD:
                    break
        await test_tokens_over_the_wire.all_freed(cloud)
