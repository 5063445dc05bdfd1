"""Makes a plan's requests one after the other and keeps what each one showed. One user: nothing overlaps.

Knows neither gRPC nor torch: what it drives is a `System`, real in `bench.paper_wifi`, a toy in the tests. Runs on the
event loop. Before anything counts, every variant answers one short request, so that threads, connections and the
strategies' estimates of link and cloud are warm, as they are on a device that has served before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from milliner.bench import cells, plan
from milliner.bench.prompts import Prompt
from milliner.core import errors, ports, types
from milliner.strategies import base
from milliner.telemetry import record

WARM_UP_NEW_TOKENS = 16  # arbitrary: enough rounds for the controllers' first estimates
_MODEL_NAME = "bench"

OnDone = Callable[[cells.Observation], None]


class System(Protocol):
    """Two tiers that run, with a generator for each variant."""

    @property
    def clock(self) -> ports.Clock: ...

    def generator(self, variant: plan.Variant) -> base.Generator: ...

    async def counters(self, variant: plan.Variant) -> tuple[cells.ComputeCounters, cells.ComputeCounters]:
        """What the executors of device and cloud have counted until now."""
        ...


class BenchRequestError(errors.MillinerError):
    """A request of the bench failed or did not end; the field is the cell's label."""


async def measure(
    run_plan: plan.Plan,
    *,
    system: System,
    prompts: Mapping[int, Sequence[Prompt]],
    references: Mapping[Prompt, tuple[int, ...]],
    deadline_s: Callable[[plan.Cell], float],
    pause_s: float = 0.0,
    on_done: OnDone = lambda _: None,
) -> list[cells.Observation]:
    """All observations of the plan in the order of its tasks.

    `references` holds the greedy answers; `deadline_s` bounds each request; between requests the system rests for
    `pause_s`, so that drafting ahead for an answer that has ended cannot delay the next. Raises `BenchRequestError`.
    """
    await _warm_up(run_plan, system=system, prompts=prompts, deadline_s=deadline_s)
    observations: list[cells.Observation] = []
    for task in run_plan.tasks():
        await system.clock.sleep(pause_s)
        cell = task.cell
        prompt = prompts[cell.prompt_tokens][task.repetition]
        device, cloud = await system.counters(cell.variant)
        summary, token_ids = await _answer(
            cell,
            system=system,
            request=_request(cell, prompt=prompt, index=task.repetition, new_tokens=run_plan.new_tokens),
            deadline_s=deadline_s(cell),
        )
        device_after, cloud_after = await system.counters(cell.variant)
        observation = cells.Observation(
            cell=cell,
            summary=summary,
            token_ids=token_ids,
            reference_ids=references.get(prompt) if cell.temperature == 0 else None,
            device=device_after.since(device),
            cloud=cloud_after.since(cloud),
        )
        observations.append(observation)
        on_done(observation)
    return observations


async def _warm_up(
    run_plan: plan.Plan,
    *,
    system: System,
    prompts: Mapping[int, Sequence[Prompt]],
    deadline_s: Callable[[plan.Cell], float],
) -> None:
    length = min(run_plan.prompt_tokens)
    for variant in run_plan.variants:
        cell = plan.Cell(variant=variant, prompt_tokens=length, temperature=run_plan.temperatures[0])
        new_tokens = min(WARM_UP_NEW_TOKENS, run_plan.new_tokens)
        request = _request(cell, prompt=prompts[length][0], index=-1, new_tokens=new_tokens)
        await _answer(cell, system=system, request=request, deadline_s=deadline_s(cell))


def _request(cell: plan.Cell, *, prompt: Prompt, index: int, new_tokens: int) -> types.GenerationRequest:
    """The request of a cell: the same prompt and seed for all variants, past any end of text."""
    return types.GenerationRequest(
        request_id=f"{cell.label} #{index}",
        prompt_ids=prompt,
        max_new_tokens=new_tokens,
        sampling=types.SamplingParams(temperature=cell.temperature, seed=index if index >= 0 else None),
    )


async def _answer(
    cell: plan.Cell, *, system: System, request: types.GenerationRequest, deadline_s: float
) -> tuple[record.RequestSummary, tuple[int, ...]]:
    """One answer to its end: its summary and its tokens."""
    request_record = record.RequestRecord(
        clock=system.clock,
        request_id=request.request_id,
        operation="text_completion",
        model=_MODEL_NAME,
        strategy=cell.variant.strategy,
        prompt_tokens=len(request.prompt_ids),
    )
    token_ids: list[int] = []
    finish_reason: types.FinishReason | None = None
    try:
        async with asyncio.timeout(deadline_s):
            async with contextlib.aclosing(system.generator(cell.variant).generate(request, request_record)) as answer:
                async for emission in answer:
                    token_ids += [token.token_id for token in emission.tokens]
                    finish_reason = emission.finish_reason or finish_reason
    except TimeoutError as error:
        request_record.finish(finish_reason=None, error=error)
        raise BenchRequestError(f"no answer within {deadline_s:.0f} s", field=cell.label) from error
    except errors.MillinerError as error:
        request_record.finish(finish_reason=None, error=error)
        raise BenchRequestError(str(error), field=cell.label) from error
    summary = request_record.finish(finish_reason=finish_reason)
    if len(token_ids) != request.max_new_tokens or summary.generated_tokens != len(token_ids):
        came = f"{len(token_ids)} tokens came, {summary.generated_tokens} were recorded"
        raise BenchRequestError(f"{came}, {request.max_new_tokens} asked for", field=cell.label)
    return summary, tuple(token_ids)
