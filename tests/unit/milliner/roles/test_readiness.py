"""Readiness over a device's life: established by a probe, lost with the cloud, established again, without flapping."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from milliner.contract import role_events
from milliner.core import clock, errors, types
from milliner.roles import probe, readiness, reporter, watched
from milliner.telemetry import record

VOCABULARY = 5
LOST = errors.UnavailableError("gone")


class VirtualClock:
    """Sleeping costs no time but gives the others a turn."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds
        await asyncio.sleep(0)


class FrozenClock(VirtualClock):
    """Time passes only when the test says so: what sleeps wakes once `time_s` has been moved."""

    async def sleep(self, seconds: float) -> None:
        until_s = self.time_s + seconds
        while self.time_s < until_s:
            await asyncio.sleep(0)


class ToyProbe:
    """Fails with what it is told, one after the other, then with `failure`, if any."""

    def __init__(self, *failures: errors.MillinerError) -> None:
        self.failures = list(failures)
        self.failure: errors.MillinerError | None = None
        self.num_sent = 0

    async def send(self) -> None:
        self.num_sent += 1
        if self.failures:
            raise self.failures.pop(0)
        if self.failure is not None:
            raise self.failure


class ToyCloud:
    def __init__(self) -> None:
        self.trouble = ""
        self.num_asked = 0

    async def why_unreachable(self) -> str:
        self.num_asked += 1
        return self.trouble


class Kept:
    """A readiness that is kept, and what it told."""

    def __init__(self, one: readiness.Readiness, toy_probe: ToyProbe, cloud: ToyCloud, time: VirtualClock) -> None:
        self.one = one
        self.probe = toy_probe
        self.cloud = cloud
        self.time = time
        self.told: list[str] = []  # "ready" or what is waited for

    async def turns(self, count: int = 50) -> None:
        for _ in range(count):
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def kept(time: VirtualClock | None = None) -> AsyncIterator[Kept]:
    """A device that has become ready."""
    toy_probe, cloud, chosen = ToyProbe(), ToyCloud(), time or VirtualClock()
    running = Kept(readiness.Readiness(toy_probe, cloud=cloud, clock=chosen), toy_probe, cloud, chosen)
    keeping = asyncio.create_task(
        running.one.keep(on_ready=lambda: running.told.append("ready"), on_waiting=running.told.append)
    )
    try:
        await running.turns()
        assert running.told == ["ready"]
        yield running
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_it_waits_for_what_passes_and_tells_why() -> None:
    toy_probe = ToyProbe(errors.UnavailableError("no replica"), errors.TooManySessions("full"))
    one = readiness.Readiness(toy_probe, cloud=ToyCloud(), clock=VirtualClock())
    assert one.reason == one.refusal != ""
    heard: list[str] = []
    await one.establish(on_waiting=heard.append)
    assert heard == ["no replica", "full"]
    assert one.reason == one.refusal == ""


async def test_no_probe_is_sent_while_no_replica_answers_and_the_pauses_grow() -> None:
    toy_probe, cloud, time = ToyProbe(), ToyCloud(), VirtualClock()
    cloud.trouble = "nobody answers"
    one = readiness.Readiness(toy_probe, cloud=cloud, clock=time)

    def hear(reason: str) -> None:
        assert reason == "nobody answers"
        if cloud.num_asked == 6:
            cloud.trouble = ""

    await one.establish(on_waiting=hear)
    assert toy_probe.num_sent == 1
    assert time.now() == pytest.approx(0.3 + 0.6 + 1.2 + 2.4 + 2.4 + 2.4)


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (errors.DigestMismatch("differs", field="model_digest"), "model_digest: differs"),
        (errors.PromptTooLong("12 positions, it holds 8", field="max_positions"), "max_positions: 12 positions"),
    ],
)
async def test_what_no_waiting_cures_is_a_configuration_error_at_first(
    refusal: errors.MillinerError, words: str
) -> None:
    one = readiness.Readiness(ToyProbe(refusal), cloud=ToyCloud(), clock=VirtualClock())
    with pytest.raises(errors.ConfigError, match=words):
        await one.establish(on_waiting=lambda _: None)
    assert one.reason


async def test_a_cloud_that_is_lost_takes_readiness_with_it_until_it_is_back() -> None:
    """`/readyz` said 200 for ever after the first probe."""
    async with kept() as running:
        running.cloud.trouble = "127.0.0.1:1 refuses"
        await running.turns()
        assert running.one.reason == "127.0.0.1:1 refuses"
        assert running.one.refusal == ""  # answers wait or fail as the fallback says
        assert set(running.told[1:]) == {"127.0.0.1:1 refuses"}
        assert running.probe.num_sent == 1
        running.cloud.trouble = ""
        await running.turns()
        assert running.one.reason == ""
        assert running.told[-1] == "ready"
        assert running.probe.num_sent == 2


async def test_a_cloud_that_came_back_with_another_model_is_waited_for() -> None:
    async with kept() as running:
        running.probe.failure = errors.DigestMismatch("differs", field="model_digest")
        running.cloud.trouble = "gone"
        await running.turns()
        running.cloud.trouble = ""
        await running.turns()
        assert running.one.reason == "model_digest: differs"
        running.probe.failure = None
        await running.turns()
        assert running.one.reason == ""


async def test_one_answer_that_fails_while_another_replica_serves_changes_nothing() -> None:
    async with kept(FrozenClock()) as running:
        running.one.answer_failed()
        await running.turns()
        assert running.probe.num_sent == 2
        assert running.told == ["ready"]
        running.probe.failures = [errors.TooManySessions("full")]  # full: it serves somebody
        running.time.time_s += 1
        running.one.answer_failed()
        await running.turns()
        assert running.probe.num_sent == 3
        assert running.told == ["ready"]


async def test_answers_that_fail_though_replicas_say_they_serve_are_believed_when_a_probe_fails_too() -> None:
    async with kept(FrozenClock()) as running:
        running.probe.failure = LOST
        running.one.answer_failed()
        await running.turns()
        assert running.one.reason == "gone"
        assert running.told == ["ready", "gone", "gone"]


async def test_trouble_is_looked_into_at_once_and_a_storm_of_it_is_not_answered_with_a_storm() -> None:
    async with kept(FrozenClock()) as running:
        asked = running.cloud.num_asked
        for _ in range(100):
            running.one.suspect()
            await running.turns(3)
        assert running.cloud.num_asked == asked + 1
        running.time.time_s += 1
        running.cloud.trouble = "gone"
        await running.turns()
        assert running.one.reason == "gone"


async def test_a_device_that_stops_stays_not_ready() -> None:
    async with kept() as running:
        running.one.stop()
        running.cloud.trouble = "gone"
        await running.turns()
        assert running.one.reason == running.one.refusal == "the device is stopping"


class ToyGenerator:
    """Raises `failure`, or answers at once, or never."""

    def __init__(self, failure: Exception | None = None, *, hangs: bool = False) -> None:
        self.failure = failure
        self.hangs = hangs
        self.requests: list[types.GenerationRequest] = []

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        self.requests.append(request)
        if self.failure is not None:
            raise self.failure
        if self.hangs:
            await asyncio.sleep(60)
        yield types.Emission((), types.FinishReason.LENGTH)


async def test_a_probe_sends_tokens_of_the_vocabulary_and_measures() -> None:
    generator = ToyGenerator()
    one = probe.Probe(generator, vocab_size=VOCABULARY, clock=clock.LoopClock())
    await one.send()
    assert all(token < VOCABULARY for token in generator.requests[-1].prompt_ids)
    assert one.round_trip_s > 0


async def test_a_probe_that_is_not_answered_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_WITHIN_S", 0.01)
    one = probe.Probe(ToyGenerator(hangs=True), vocab_size=VOCABULARY, clock=clock.LoopClock())
    with pytest.raises(errors.DeadlineExceeded, match="was not answered in"):
        await one.send()


@pytest.mark.parametrize(("failure", "times"), [(LOST, 1), (errors.TooManySessions("full"), 0), (None, 0)])
async def test_only_answers_that_end_with_the_clouds_loss_are_told(
    failure: errors.MillinerError | None, times: int
) -> None:
    told: list[int] = []
    one = watched.WatchedGenerator(ToyGenerator(failure), on_cloud_lost=lambda: told.append(1))
    request = types.GenerationRequest("r", (1,), max_new_tokens=1)
    a_record = record.RequestRecord(
        clock=VirtualClock(), request_id="r", operation="text_completion", model="", strategy=""
    )
    with pytest.raises(type(failure)) if failure is not None else contextlib.nullcontext():
        async for _ in one.generate(request, a_record):
            pass
    assert len(told) == times


def test_a_role_that_waits_for_the_same_again_says_so_again() -> None:
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        report = reporter.Reporter(role="device", name="d")
        report.waiting("gone")
        report.waiting("gone")
        report.say(role_events.RoleEventKind.READY)
        report.waiting("gone")
    kinds = [event.event.value for line in written.getvalue().splitlines() if (event := role_events.parse_line(line))]
    assert kinds == ["waiting", "ready", "waiting"]
