"""A stage is ready while the one behind it serves this model and these layers; the words say what is missing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import torch
from tests.wire import toy_cloud

from milliner.contract import role_config
from milliner.core import clock, errors, types
from milliner.roles import chain, hidden_state_service
from milliner.wire import replicas, server

SERVED = hidden_state_service.Served(toy_cloud.DIGEST, 2, 5, toy_cloud.HIDDEN_SIZE, torch.float32)


@contextlib.asynccontextmanager
async def watched(port: int, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[chain.Chain, list[str]]]:
    """A chain that looks often, and what it said at each change."""
    monkeypatch.setattr(chain, "_RETRY_S", 0.02)
    monkeypatch.setattr(chain, "_CHECK_EVERY_S", 0.02)
    said: list[str] = []
    config = role_config.NextStage(endpoints=(f"127.0.0.1:{port}",), chain_end=8)
    behind = chain.Chain(config, served=SERVED, codec=types.Codec.FLOAT32, identity=None, clock=clock.LoopClock())

    async def on_change() -> None:
        said.append(behind.reason)

    async with behind:
        keeping = asyncio.create_task(behind.keep(on_change))
        try:
            yield behind, said
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def until(said: list[str], words: str) -> None:
    async with asyncio.timeout(20.0):
        while not (said and (said[-1] == "" if words == "" else words in said[-1])):
            await asyncio.sleep(0.01)


async def test_ready_with_the_next_stage_and_not_without(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_cloud.ToyCloud()
    async with await server.serve(toy) as listening, watched(listening.port, monkeypatch) as (behind, said):
        assert behind.reason
        await until(said, "")
        await listening.set_serving(False)
        await until(said, "the next stage is not ready")
        await listening.set_serving(True)
        await until(said, "")
        assert len(toy.opened) == 2  # one session each time, not with every look
    assert len(set(toy.opened)) == 2


async def test_a_replica_more_is_asked_for_a_session_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model may be another's: the roll-out of the stage behind had been taken for served."""
    toy, told = toy_cloud.ToyCloud(), frozenset({"one", "two"})
    monkeypatch.setattr(replicas.Replicas, "targets", property(lambda _: told))
    async with await server.serve(toy) as listening, watched(listening.port, monkeypatch) as (_, said):
        await until(said, "")
        assert len(toy.opened) == 1
        toy.refuse_open = errors.DigestMismatch("another model", field="model_digest")
        told = frozenset({"one"})
        await asyncio.sleep(0.1)
        assert said[-1] == "", "fewer is no reason to ask"
        told = frozenset({"one", "another"})
        await until(said, "another model")


async def test_another_model_behind_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_cloud.ToyCloud()
    toy.refuse_open = errors.DigestMismatch("another model", field="model_digest")
    async with await server.serve(toy) as listening, watched(listening.port, monkeypatch) as (_, said):
        await until(said, "the next stage refuses this one: model_digest: another model")
        toy.refuse_open = None
        await until(said, "")


async def test_a_full_stage_serves_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = toy_cloud.ToyCloud()
    toy.refuse_open = errors.TooManySessions("full", field="session_id")
    async with await server.serve(toy) as listening, watched(listening.port, monkeypatch) as (_, said):
        await until(said, "")
