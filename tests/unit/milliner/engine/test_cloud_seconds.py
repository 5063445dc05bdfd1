"""A replica promises no more of its time than a device would wait for; in virtual time, over the token service."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from milliner.bench.modelled import virtual_time, whole
from milliner.core import compute, errors, generation, types
from milliner.engine import cloud_seconds, token_service

SEQUENCES = 4
LOAD = types.LoadReport(delay_fixed_s=0.038, delay_per_token_s=0.0005)  # 40 ms for four sequences, 10 for one of them
CLOCK = virtual_time.VirtualClock()


def account(most_s: float) -> cloud_seconds.CloudSeconds:
    return cloud_seconds.CloudSeconds(most_s=most_s, sequences=SEQUENCES, load=lambda: LOAD)


def test_a_token_is_its_share_of_a_full_batch() -> None:
    assert account(1.0).token_s == pytest.approx(0.01)


def test_what_runs_at_once_is_never_refused() -> None:
    seconds = account(1.0)
    for index in range(SEQUENCES):
        seconds.check(str(index), 10_000)
        seconds.book(str(index), 10_000)
    with pytest.raises(errors.CapacityError, match="10000 tokens would take the cloud 100") as refused:
        seconds.check("late", 10_000)
    assert refused.value.retry_after_s == 30.0


def test_the_hint_is_when_enough_will_have_been_worked_off() -> None:
    seconds = account(2.0)
    for index in range(SEQUENCES):
        seconds.book(str(index), 50)  # 2 s in all
    with pytest.raises(errors.CapacityError) as refused:
        seconds.check("late", 30)
    assert refused.value.retry_after_s == pytest.approx(0.3)
    for index in range(30):
        seconds.generated(str(index % SEQUENCES))
    seconds.check("late", 30)
    seconds.release("0")
    assert seconds.promised_s == pytest.approx(0.01 * (150 - 22))


def test_a_session_may_be_promised_more_instead_of_what_it_had() -> None:
    seconds = account(2.0)
    for index in range(SEQUENCES + 1):
        seconds.book(str(index), 40)  # 2 s in all
    with pytest.raises(errors.CapacityError):
        seconds.check("0", 41)
    seconds.release("1")
    seconds.check("0", 80)


def opening(number: int, max_tokens: int) -> generation.GenerationOpen:
    return generation.GenerationOpen(
        session_id=f"s{number}",
        model_digest=whole.INFO.model_digest,
        tokenizer_digest=whole.INFO.tokenizer_digest,
        prompt_ids=(1,),
        max_tokens=max_tokens,
        sampler=generation.Sampler(types.SamplingParams(), seed=0),
    )


def test_a_saturated_replica_promises_no_more_than_it_may_and_everybody_gets_in_by_the_hints() -> None:
    async def run() -> tuple[float, int, float]:
        seconds = account(3.0)
        # one call at a time, each as long as a token's share of a batch: the service works its promises off at 1 s/s
        model = whole.ModelledDeviceModel(compute.GenerationCost(prompt_token_s=0.0, step_s=0.01), clock=CLOCK)
        service = token_service.EngineTokenService(
            model, load=lambda: LOAD, max_positions=lambda: 4096, seconds=seconds
        )
        most_s, refusals = 0.0, itertools.count()

        async def device(number: int) -> None:
            nonlocal most_s
            request = opening(number, max_tokens=50)
            while True:
                try:
                    await service.open(request)
                    break
                except errors.CapacityError as refused:
                    next(refusals)
                    await CLOCK.sleep(refused.retry_after_s)
            most_s = max(most_s, seconds.promised_s)
            tokens = [token async for token in service.generate(request.session_id)]
            assert [token.index for token in tokens] == list(range(50))

        await asyncio.gather(*(device(number) for number in range(20)))
        assert seconds.promised_s == 0.0
        return most_s, next(refusals), CLOCK.now()

    most_s, refusals, took_s = virtual_time.run(run())
    assert most_s <= 3.0
    assert refusals >= 14, "twenty came, six of half a second each fit"
    assert took_s <= 10.0 * 1.2, "ten seconds of work, and little idling between hint and return"


def test_what_a_stopped_session_gave_back_is_not_taken_again_once_it_is_promised_to_others() -> None:
    async def run() -> tuple[int, float]:
        seconds = account(2.0)
        model = whole.ModelledDeviceModel(compute.GenerationCost(prompt_token_s=0.0, step_s=0.01), clock=CLOCK)
        service = token_service.EngineTokenService(
            model, load=lambda: LOAD, max_positions=lambda: 4096, seconds=seconds
        )
        await service.open(opening(0, max_tokens=180))
        await service.set_limit("s0", 20)
        for number in range(1, SEQUENCES + 1):
            await service.open(opening(number, max_tokens=45))  # 2 s with what is left of the first one's
        await service.set_limit("s0", 180)
        promised_s = seconds.promised_s
        return len([token async for token in service.generate("s0")]), promised_s

    given, promised_s = virtual_time.run(run())
    assert promised_s <= 2.0
    assert given == 20


def test_a_limit_that_moves_before_the_first_token_counts() -> None:
    async def run() -> int:
        model = whole.ModelledDeviceModel(compute.GenerationCost(prompt_token_s=0.0, step_s=0.01), clock=CLOCK)
        service = token_service.EngineTokenService(model, load=lambda: LOAD, max_positions=lambda: 4096)
        await service.open(opening(0, max_tokens=50))
        await service.set_limit("s0", 5)
        return len([token async for token in service.generate("s0")])

    assert virtual_time.run(run()) == 5
