"""What the operator takes from inside kopf is still there, and kopf still acts on it: a failure says it has changed."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import kopf
import pytest
from kopf._cogs.aiokits import aiotoggles
from kopf._cogs.structs import references
from kopf._core.reactor import orchestration

from milliner_operator.kopf_namespaces import Watched


def test_kopf_still_takes_its_record_as_an_argument() -> None:
    annotation = inspect.signature(kopf.operator).parameters["insights"].annotation
    assert "Insights" in str(annotation)


async def test_kopf_still_follows_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """kopf's own orchestrator, without what it would start and end for each namespace."""
    watched, seen = Watched(), list[frozenset[str]]()

    async def adjust(*, insights: references.Insights, **_: Any) -> None:
        seen.append(frozenset(map(str, insights.namespaces)))

    monkeypatch.setattr(orchestration, "adjust_tasks", adjust)
    parts: dict[str, Any] = {"processor": None, "identity": "test", "settings": kopf.OperatorSettings()}
    paused = aiotoggles.ToggleSet(any)
    running = orchestration.orchestrator(insights=watched.insights, operator_paused=paused, **parts)
    following = asyncio.create_task(running)
    try:
        for change, expected in ((watched.begin, frozenset({"team"})), (watched.end, frozenset[str]())):
            async with asyncio.timeout(5):
                while not seen or seen[-1] != expected:
                    await change("team")
                    await asyncio.sleep(0.001)
            assert watched.names == expected
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
