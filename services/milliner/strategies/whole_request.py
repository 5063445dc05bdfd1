"""What strategies over whole models share: their ports, the sampler of a request, and recording steps of a tier."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import AsyncGenerator, Callable

from milliner.core import generation, ports, types
from milliner.strategies import answer as answers
from milliner.strategies import openings
from milliner.telemetry import record as records
from milliner.telemetry.phases import Phase

SEED_BITS = 63  # as torch's seeds


@dataclasses.dataclass(frozen=True, slots=True)
class DevicePorts:
    """A device that runs a model whole. `openings` is the line of requests that wait for room there."""

    clock: ports.Clock
    model: generation.WholeModel
    new_seed: Callable[[], int] = lambda: secrets.randbits(SEED_BITS)
    openings: openings.Openings = dataclasses.field(default_factory=openings.Openings)


def sampler_of(request: types.GenerationRequest, new_seed: Callable[[], int]) -> generation.Sampler:
    """One sampler for all tiers: with seeds of their own, a hand-over would change a sampled answer."""
    seed = request.sampling.seed
    return generation.Sampler(
        params=request.sampling,
        seed=seed if seed is not None else new_seed(),
        num_logprobs=request.num_logprobs,
    )


async def open_on_device(
    scope: DevicePorts, request: types.GenerationRequest, sampler: generation.Sampler
) -> generation.WholeSession:
    """A session with room for prompt and answer; waits for room in turn."""
    opened: list[generation.WholeSession] = []

    async def attempt() -> None:
        needed = len(request.prompt_ids) + request.max_new_tokens
        opened.append(
            await scope.model.open(
                sampler, max_positions=needed, prompt_ids=request.prompt_ids, salt=request.cache_salt
            )
        )

    await scope.openings.open(attempt, clock=scope.clock)
    return opened[0]


async def emit_device_steps(
    steps: AsyncGenerator[generation.Step, None],
    *,
    answer: answers.Answer,
    record: records.RequestRecord,
    clock: ports.Clock,
) -> AsyncGenerator[types.Emission, None]:
    """Emissions of steps that this device computes, each a round of its own; the first is the prefill's."""
    index = 0
    start_s = clock.now()
    record.start_round(index, "prefill")
    async for step in steps:
        waited_s = clock.now() - start_s
        record.add(Phase.QUEUE, min(waited_s, step.queue_s))
        record.add(Phase.DEVICE_FORWARD, max(0.0, waited_s - step.queue_s))
        emission = answer.take((step.token,))
        record.emitted(len(emission.tokens))
        record.end_round()
        yield emission
        if answer.finished:
            return
        index += 1
        start_s = clock.now()
        record.start_round(index, "decode")
