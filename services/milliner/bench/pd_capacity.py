"""What a saturated cloud serves: clients that play only the cloud's part of many devices (prompt in, N tokens out, then
gone) keep three times as many requests in flight as the cloud goes on with.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from milliner.bench import pd_preset, pd_system
from milliner.bench import prompts as prompt_cutter
from milliner.core import generation, types

_OVERLOAD = 3  # requests in flight for each place in the cloud; arbitrary: somebody always waits
_ROUNDS = 2  # completions per place that are counted; arbitrary


async def requests_per_s(
    system: pd_system.PDSystem,
    preset: pd_preset.PDPreset,
    prompt: prompt_cutter.Prompt,
    *,
    cloud_tokens: int,
    kept: float,
) -> float:
    """Of requests for `cloud_tokens` tokens each; the cloud also selects `kept` of their prompts, if below 1. Answers
    after the first one of each place are counted."""
    ended_s = await serve(
        system, preset, prompt, cloud_tokens=cloud_tokens, kept=kept, answers=(_ROUNDS + 1) * preset.sequences
    )
    counted = ended_s[preset.sequences - 1 :]
    return (len(counted) - 1) / (counted[-1] - counted[0])


async def serve(
    system: pd_system.PDSystem,
    preset: pd_preset.PDPreset,
    prompt: prompt_cutter.Prompt,
    *,
    cloud_tokens: int,
    kept: float,
    answers: int,
) -> list[float]:
    """Saturates the cloud until so many answers have ended, and says when each did."""
    ended_s: list[float] = []
    enough = asyncio.Event()

    async def client(index: int) -> None:
        await asyncio.sleep(index * preset.cloud.duration_s(len(prompt)))  # or all would be in step for ever
        while not enough.is_set():
            stream = await system.direct.open(
                generation.GenerationOpen(
                    session_id=secrets.token_hex(16),
                    model_digest=system.info.model_digest,
                    tokenizer_digest=system.info.tokenizer_digest,
                    prompt_ids=prompt,
                    max_tokens=cloud_tokens,
                    sampler=generation.Sampler(types.SamplingParams(), seed=0),
                    salt=secrets.token_hex(8),
                    keep_share=kept,
                )
            )
            try:
                while not (await stream.receive()).last:
                    pass
            finally:
                await stream.close()
            ended_s.append(time.perf_counter())
            if len(ended_s) >= answers:
                enough.set()

    clients = [asyncio.ensure_future(client(index)) for index in range(_OVERLOAD * preset.sequences)]
    try:
        waiting = asyncio.ensure_future(enough.wait())
        await asyncio.wait([waiting, *clients], return_when=asyncio.FIRST_COMPLETED)
        for failed in clients:
            if failed.done() and not enough.is_set():
                await failed  # raises why
    finally:
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return ended_s[:answers]
