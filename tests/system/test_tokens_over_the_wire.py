"""The strategies of whole models over real gRPC: the same answer as the model's own, through the loss of a replica."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.system import split_topology, test_whole_models, whole_tiers

from milliner.core import clock, compute, types
from milliner.strategies import cloud_tokens
from milliner.strategies import options as strategy_options
from milliner.strategies.cloud_only import strategy as cloud_only
from milliner.strategies.pd_device import strategy as pd_device
from milliner.wire import client, server

PROMPT, NEW_TOKENS = test_whole_models.PROMPT, test_whole_models.NEW_TOKENS
STEP = compute.ComputeCost(0.01, 0.0)  # an answer takes a quarter of a second: something may happen in its middle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("whole"), split_layer=2, deep_share=1.0)
    return written


@contextlib.asynccontextmanager
async def clouds(
    folder: pathlib.Path, *, num_replicas: int
) -> AsyncIterator[tuple[whole_tiers.Tier, list[server.CloudServer], cloud_tokens.CloudPorts]]:
    """Replicas before one engine, and a device's way to them."""
    async with contextlib.AsyncExitStack() as stack:
        tier = await stack.enter_async_context(whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD, cost=STEP))
        servers = [
            await stack.enter_async_context(await server.serve(tokens=whole_tiers.service(tier)))
            for _ in range(num_replicas)
        ]
        targets = [f"127.0.0.1:{running.port}" for running in servers]
        transport = await stack.enter_async_context(client.GrpcTokenTransport(targets))
        reached = cloud_tokens.CloudPorts(
            clock=clock.LoopClock(),
            transport=transport,
            info=tier.model.info,
            new_session_id=lambda: secrets.token_hex(16),
        )
        yield tier, servers, reached


async def lose_in_mid_answer(running: server.CloudServer) -> None:
    async with asyncio.timeout(5):
        while not running.open_sessions:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.06)  # some tokens of 24
    await running.stop()


async def all_freed(tier: whole_tiers.Tier) -> None:
    """The cloud hears of a session's end a moment after the device has ended it."""
    async with asyncio.timeout(5):
        while tier.engine.load().running_sessions:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("lost", [False, True])
async def test_the_cloud_alone_gives_the_models_answer(folder: pathlib.Path, lost: bool) -> None:
    async with clouds(folder, num_replicas=2) as (tier, servers, reached):
        strategy = cloud_only.CloudOnly(reached, strategy_options.RecoveryOptions(wait_s=5.0, retry_s=0.01))
        losing = asyncio.create_task(lose_in_mid_answer(servers[0])) if lost else None
        tokens, reason = await test_whole_models.answer(strategy)
        assert test_whole_models.ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
        assert reason is types.FinishReason.LENGTH
        if losing is not None:
            assert losing.done()  # in mid-answer, that is
            await losing
        await all_freed(tier)


@pytest.mark.parametrize("lost", [False, True])
async def test_the_device_takes_over_and_the_answer_is_the_models(folder: pathlib.Path, lost: bool) -> None:
    slow = compute.ComputeCost(0.002, 0.003)  # the prompt takes the device as long as some tokens take the cloud
    async with (
        clouds(folder, num_replicas=1) as (tier, servers, reached),
        whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE, cost=slow) as device,
    ):
        half = dataclasses.replace(test_whole_models.QUICK, max_cloud_tokens=NEW_TOKENS // 2)
        strategy = pd_device.PDDevice(reached, test_whole_models.device_ports(device), half)
        strategy._profile.step_s = 10.0  # a cloud that a busy machine delays is waited for
        losing = asyncio.create_task(lose_in_mid_answer(servers[0])) if lost else None
        tokens, _ = await test_whole_models.answer(strategy)
        assert test_whole_models.ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
        assert tokens[-1].origin is types.TokenOrigin.DEVICE
        assert lost or tokens[0].origin is types.TokenOrigin.CLOUD
        if losing is not None:
            await losing
        await all_freed(tier)
