"""A link that stalls for a moment costs the request in hand its stall, and those after it nothing."""

from __future__ import annotations

import asyncio

import pytest

from milliner.bench import plan, presets, runner
from milliner.bench.modelled import cloud, system, virtual_time

AGREEMENT, WARM_REQUESTS, LATER_REQUESTS = 0.8, 3, 3
TOLERANCE = 1.04  # of a prompt's time: jitter alone moves it by 2 %


async def _ttfts_s(
    monkeypatch: pytest.MonkeyPatch, *, codec: str, tokens: int, stall_after_s: float, stall_s: float
) -> list[float]:
    """Times to first token of one device's prompts, one after another; the link back stalls during one of them."""
    stall: list[tuple[float, float]] = []
    receive = cloud.ModelledStream.receive

    async def receive_late(stream: cloud.ModelledStream) -> object:
        reply = await receive(stream)
        for start_s, end_s in stall:
            if start_s <= (now_s := asyncio.get_running_loop().time()) < end_s:
                await asyncio.sleep(end_s - now_s)
        return reply

    monkeypatch.setattr(cloud.ModelledStream, "receive", receive_late)
    modelled = system.ModelledSystem(presets.PAPER_WIFI, agreement=AGREEMENT)
    run_plan = plan.Plan(
        strategies=[plan.StrategyName.HAT],
        codecs=[codec],
        prompt_tokens=[tokens],
        temperatures=[0.0],
        requests=1,
        new_tokens=32,
    )
    seen = []
    for index in range(WARM_REQUESTS + 1 + LATER_REQUESTS):
        start_s = asyncio.get_running_loop().time() + stall_after_s
        stall[:] = [(start_s, start_s + stall_s)] if index == WARM_REQUESTS else []
        observations = await runner.measure(
            run_plan,
            system=modelled,
            prompts={tokens: (tuple(range(tokens)),)},
            references={},
            deadline_s=lambda _: 600.0,
            pause_s=0.05,
        )
        ttft_s = observations[0].summary.ttft_s
        assert ttft_s is not None
        seen.append(ttft_s)
    return seen


@pytest.mark.parametrize(
    ("codec", "tokens", "stall_after_s", "stall_s"),
    [
        ("int8", 128, 0.07, 0.25),  # in the first of few chunks
        ("int8", 512, 0.07, 1.0),
        ("int8", 512, 0.20, 0.25),
        ("int8", 512, 0.65, 0.25),  # while decoding: what was held up then comes all at once
        ("int8", 2048, 0.45, 0.25),
        ("float16", 2048, 0.85, 1.0),
    ],
)
def test_a_stall_is_not_mistaken_for_a_slow_link(
    monkeypatch: pytest.MonkeyPatch, codec: str, tokens: int, stall_after_s: float, stall_s: float
) -> None:
    seen = virtual_time.run(
        _ttfts_s(monkeypatch, codec=codec, tokens=tokens, stall_after_s=stall_after_s, stall_s=stall_s)
    )
    usual_s = seen[WARM_REQUESTS - 1]
    assert max(seen[WARM_REQUESTS + 1 :]) <= TOLERANCE * usual_s
