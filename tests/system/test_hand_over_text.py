"""The text of an answer does not show where it changed tiers: stop strings and characters of several bytes across it.
In virtual time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import AsyncGenerator, Sequence

import pytest
from tests.unit.milliner.api import conftest as toys

from milliner.api import text_service
from milliner.bench.modelled import virtual_time, whole
from milliner.core import generation, types
from milliner.strategies import base, cloud_tokens, options, whole_request
from milliner.strategies.device_only import strategy as device_only
from milliner.strategies.pd_device import strategy as pd_device
from milliner.telemetry import record

CLOCK = virtual_time.VirtualClock()
TEXT = "Grüße, 世界! 🙂🙃 END naïve, STOP and go"
PROMPT = (1, 2, 3, 4, 5)
IDS = [*TEXT.encode(), toys.EOS]
CLOUD, DEVICE = types.TokenOrigin.CLOUD, types.TokenOrigin.DEVICE


@dataclasses.dataclass(frozen=True)
class Script:
    """A model that says `TEXT`, a byte for each token, whatever tier it runs on. Implements `WholeModel`."""

    origin: types.TokenOrigin
    step_s: float
    info: generation.WholeModelInfo = dataclasses.field(
        default_factory=lambda: dataclasses.replace(whole.INFO, vocab_size=257)
    )

    async def open(self, sampler: generation.Sampler, **_: object) -> Spoken:
        return Spoken(self)


class Spoken:
    """One sequence. Implements `WholeSession`, and raises where it is fed anything but prompt and `TEXT`."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._fed: list[int] = []
        self._limit = 0
        self.cached_tokens = 0
        self.kept = None

    @property
    def position(self) -> int:
        return len(self._fed)

    async def prefill(self, token_ids: Sequence[int]) -> int:
        self._fed += token_ids
        assert self._fed == [*PROMPT, *IDS][: len(self._fed)], "what the device is given is what was said"
        await CLOCK.sleep(self._script.step_s * len(token_ids))
        return len(token_ids)

    async def generate(
        self,
        token_ids: Sequence[int],
        *,
        limit: int,
        stop_token_ids: frozenset[int] = frozenset(),
        left_out: int = 0,
    ) -> AsyncGenerator[generation.Step, None]:
        self._limit = limit
        await self.prefill(token_ids)
        for index in itertools.count():
            await CLOCK.sleep(self._script.step_s)
            token_id = IDS[len(self._fed) - len(PROMPT) + index]
            last = index + 1 >= self._limit or token_id in stop_token_ids
            token = types.EmittedToken(token_id, self._script.origin)
            yield generation.Step(token=token, queue_s=0.0, compute_s=0.0, batched_tokens=1, last=last)
            if last:
                return

    def set_limit(self, limit: int) -> None:
        self._limit = limit

    def extend(self, max_positions: int) -> None:
        return None

    async def close(self) -> None:
        return None


@dataclasses.dataclass
class Stream:
    """Implements `TokenStream` over a scripted cloud."""

    opened: generation.GenerationOpened
    steps: AsyncGenerator[generation.Step, None]
    index: int = 0

    async def receive(self) -> generation.CloudToken:
        step = await anext(self.steps)
        self.index += 1
        return generation.CloudToken(index=self.index - 1, step=step, last=step.last)

    async def set_limit(self, max_tokens: int) -> None:
        return None

    async def close(self) -> None:
        await self.steps.aclose()


class Cloud:
    """Implements `TokenTransport`."""

    async def open(self, request: generation.GenerationOpen) -> Stream:
        spoken = await Script(CLOUD, step_s=0.001).open(request.sampler)
        steps = spoken.generate(request.prompt_ids, limit=request.max_tokens, stop_token_ids=request.stop_token_ids)
        return Stream(generation.GenerationOpened(request.session_id, "", types.LoadReport()), steps)


def strategies(cloud_gives: int) -> tuple[base.Generator, base.Generator]:
    device = whole_request.DevicePorts(clock=CLOCK, model=Script(DEVICE, step_s=0.004))
    ids = itertools.count()
    cloud = cloud_tokens.CloudPorts(
        clock=CLOCK, transport=Cloud(), info=device.model.info, new_session_id=lambda: str(next(ids))
    )
    wanted = options.PDDeviceOptions(max_cloud_tokens=cloud_gives, fixed_cloud_tokens=True, max_interval_s=0.01)
    return pd_device.PDDevice(cloud, device, wanted), device_only.DeviceOnly(device)


async def said(
    strategy: base.Generator, stop: tuple[str, ...], *, most: int
) -> tuple[list[str], types.FinishReason | None, list[types.TokenOrigin]]:
    """The deltas' text, why it ended, and where its tokens came from."""
    service = text_service.TextService(
        generator=strategy,
        codec=toys.ByteTokenizer(),
        model=text_service.ServedModel(name="toy", max_positions=400, strategy="PDDevice"),
        clock=CLOCK,
    )
    told = record.RequestRecord(clock=CLOCK, request_id="r", operation="chat", model="m", strategy="s")
    wanted = text_service.TextOptions(max_new_tokens=most, stop=stop)
    deltas, origins, reason = list[str](), list[types.TokenOrigin](), None
    async with contextlib.aclosing(service.generate(PROMPT, wanted, told)) as answer:
        async for delta in answer:
            deltas.append(delta.text)
            origins += [token.origin for token in delta.tokens]
            reason = delta.finish_reason or reason
    service.close()
    return deltas, reason, origins


@pytest.mark.parametrize("stop", [(), ("END",), ("🙃",), ("absent", "naïve, STOP"), ("üße, 世",)])
@pytest.mark.parametrize("most", [len(IDS), 27])
def test_the_text_is_the_same_wherever_the_answer_changes_tiers(stop: tuple[str, ...], most: int) -> None:
    async def run(cloud_gives: int) -> tuple[list[str], types.FinishReason | None, list[types.TokenOrigin]]:
        handing_over, alone = strategies(cloud_gives)
        expected, why, _ = await said(alone, stop, most=most)
        found, reason, origins = await said(handing_over, stop, most=most)
        assert "".join(found) == "".join(expected)
        assert reason is why
        whole_text = TEXT.encode()[:most].decode(errors="replace")
        cut = min((whole_text.index(each) for each in stop if each in whole_text), default=len(whole_text))
        assert "".join(found) == whole_text[:cut]
        return found, reason, origins

    for cloud_gives in range(1, len(IDS) + 1):
        _, _, origins = virtual_time.run(run(cloud_gives))
        assert origins.count(CLOUD) == min(cloud_gives, len(origins))
        assert origins == sorted(origins, key=[CLOUD, DEVICE].index)
