"""Faults of our own on the way to the cloud: the device goes on, and nobody is silent about them."""

from __future__ import annotations

import pytest
from tests.unit.milliner.bench import test_pd_modelled, test_pd_settings_modelled

from milliner.bench.modelled import virtual_time, whole
from milliner.core import generation
from milliner.strategies.pd_device import settings


class Faulty(test_pd_settings_modelled.Watched):
    async def open(self, request: generation.GenerationOpen) -> whole.ModelledTokenStream:
        raise ValueError("a fault of our own")


def test_a_fault_of_our_own_costs_the_clouds_tokens_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> test_pd_modelled.Seen:
        async with test_pd_settings_modelled.world(Faulty()) as strategy:
            return await test_pd_modelled.one(strategy, prompt_tokens=64, new_tokens=8)

    assert virtual_time.run(run()).cloud_tokens == 0
    assert "a fault of our own" in caplog.text


def test_a_request_that_ends_before_it_begins_leaves_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = 0

    async def close(session: whole.ModelledDeviceSession) -> None:
        nonlocal closed
        closed += 1

    def choose(*_: object) -> settings.Settings:
        raise ValueError("a fault of our own")

    async def run() -> int:
        async with test_pd_settings_modelled.world(test_pd_settings_modelled.Watched()) as strategy:
            monkeypatch.setattr(whole.ModelledDeviceSession, "close", close)
            monkeypatch.setattr(settings, "choose", choose)
            with pytest.raises(ValueError, match="of our own"):
                await test_pd_modelled.one(strategy, prompt_tokens=64, new_tokens=8)
            return closed

    assert virtual_time.run(run()) == 1
