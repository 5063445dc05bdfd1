"""What proves that a device serves, by what it needs: its cloud, nothing, or a cloud that it can do without."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from tests.unit.milliner.roles import test_readiness

from milliner.core import errors, types
from milliner.roles import proving
from milliner.telemetry import record

DEVICE, CLOUD = types.TokenOrigin.DEVICE, types.TokenOrigin.CLOUD


class ToyGenerator:
    """Answers with tokens of one origin, or fails with `failure`."""

    def __init__(self, origin: types.TokenOrigin, failure: errors.MillinerError | None = None) -> None:
        self._origin = origin
        self.failure = failure
        self.num_asked = 0

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        self.num_asked += 1
        request_record.start_round(0, "prefill")
        if self.failure is not None:
            raise self.failure
        request_record.emitted(1)
        request_record.end_round()
        yield types.Emission((types.EmittedToken(1, self._origin),))


def proving_of(
    device: ToyGenerator,
    *,
    cloud: ToyGenerator | None,
    alone: bool = False,
    on_back: Callable[[], None] = lambda: None,
) -> tuple[proving.Proving, test_readiness.VirtualClock]:
    clock = test_readiness.VirtualClock()
    behind = proving.Behind(cloud, test_readiness.ToyCloud(), on_back) if cloud is not None else None
    state = proving.Proving(
        device, cloud=test_readiness.ToyCloud(), behind=behind, alone=alone, vocab_size=5, clock=clock
    )
    return state, clock


@contextlib.asynccontextmanager
async def kept(state: proving.Proving) -> AsyncIterator[None]:
    task = asyncio.create_task(state.keep(on_ready=lambda: None, on_waiting=lambda _: None))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0)


def told(state: proving.Proving) -> dict[str, object]:
    return state.document(revision="r", model_digest="")


async def test_a_device_that_answers_alone_is_ready_and_proves_nothing_while_its_cloud_is_away() -> None:
    """A device whose cloud gave no tokens for want of a way to it would else look as if all were well."""
    device, cloud = ToyGenerator(DEVICE), ToyGenerator(CLOUD, errors.UnavailableError("no way there"))
    back: list[bool] = []
    state, _ = proving_of(device, cloud=cloud, on_back=lambda: back.append(True))
    async with kept(state):
        await until(lambda: cloud.num_asked > 1 and not state.ready.reason)
        assert not back
        state.emitted(types.Emission((types.EmittedToken(1, DEVICE),)))
        assert (told(state)["ok"], told(state)["ageSeconds"]) == (False, None)
        assert "no way there" in str(told(state)["reason"])
        cloud.failure = None
        await until(lambda: told(state)["ok"])
        await until(lambda: back)
        cloud.failure = errors.UnavailableError("gone again")
        state.answer_failed()
        await until(lambda: not told(state)["ok"])
        assert not state.ready.reason, "it answers alone"


async def test_another_model_in_the_cloud_does_not_end_a_device_that_answers_alone() -> None:
    cloud = ToyGenerator(CLOUD, errors.ProtocolError("another model", field="model_digest"))
    state, _ = proving_of(ToyGenerator(DEVICE), cloud=cloud)
    async with kept(state):
        await until(lambda: cloud.num_asked > 2 and not state.ready.reason)
        assert "another model" in str(told(state)["reason"])


async def test_a_device_that_needs_its_cloud_is_proven_by_its_own_probe() -> None:
    device = ToyGenerator(CLOUD)
    state, _ = proving_of(device, cloud=None)
    async with kept(state):
        await until(lambda: told(state)["ok"])


async def test_where_there_is_no_cloud_the_devices_own_tokens_prove() -> None:
    alone, clock = proving_of(ToyGenerator(DEVICE), cloud=None, alone=True)
    needy, _ = proving_of(ToyGenerator(DEVICE), cloud=None)
    async with kept(alone):
        await until(lambda: told(alone)["ok"])
    clock.time_s += 100.0
    for state in (alone, needy):
        state.emitted(types.Emission((types.EmittedToken(1, DEVICE),)))
    assert told(alone)["ageSeconds"] == 0.0
    assert told(needy)["ageSeconds"] is None
