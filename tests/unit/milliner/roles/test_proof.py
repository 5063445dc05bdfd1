"""What `/probe` says, idle devices that prove themselves again, and what a replica learns from its environment."""

from __future__ import annotations

import asyncio

import pytest
from tests.unit.milliner.roles import test_readiness

from milliner.contract import errors as contract_errors
from milliner.contract import kinds, role_config
from milliner.core import errors, types
from milliner.roles import environment, proof, readiness
from milliner.telemetry import record, summary
from milliner.telemetry.phases import Phase


def answered(
    time: test_readiness.VirtualClock, *, rounds: int = 3, error: BaseException | None = None
) -> summary.RequestSummary:
    """An answer of a prompt round and `rounds` more of 10, 20, ... ms wait for the cloud and a token each."""
    one = record.RequestRecord(clock=time, request_id="r", operation="chat", model="toy", strategy="Hat")
    one.start_round(0, "prefill")
    time.time_s += 0.2
    one.add_round_trip(0.2, queue_s=0.1, compute_s=0.05)
    one.emitted(1)
    for index in range(1, rounds + 1):
        one.start_round(index, "verify")
        time.time_s += 0.04  # whatever else the round took
        one.add_round_trip(0.01 * index, queue_s=0.001, compute_s=0.002)
        one.add(Phase.DRAFT, 0.004)
        one.emitted(1)
    return one.finish(finish_reason=None if error else "stop", error=error)


def emission(origin: types.TokenOrigin) -> types.Emission:
    return types.Emission((types.EmittedToken(1, origin),))


def test_nothing_is_proven_before_the_first_round_trip() -> None:
    said = proof.Proof(clock=test_readiness.VirtualClock()).document(reason="", revision="7", model_digest="sha256:a")
    assert said == {
        "ok": False,
        "reason": "",
        "revision": "7",
        "modelDigest": "sha256:a",
        "roundTripMicroseconds": None,
        "timeToFirstTokenMilliseconds": None,
        "tokensPerSecond": None,
        "cloudIsFull": False,
        "ageSeconds": None,
    }


def test_a_probe_proves_and_measures() -> None:
    time = test_readiness.VirtualClock()
    one = proof.Proof(clock=time)
    one.probed(answered(time))
    time.time_s += 12.5
    said = one.document(reason="", revision="", model_digest="")
    assert (said["ok"], said["ageSeconds"]) == (True, 12.5)
    assert said["roundTripMicroseconds"] == 20_000  # the median, the prompt's round left out
    assert said["timeToFirstTokenMilliseconds"] == 200
    assert said["tokensPerSecond"] == 25
    refused = one.document(reason="no replica; " * 500, revision="", model_digest="")
    assert refused["ok"] is False
    assert len(str(refused["reason"])) == 1000  # what the operator reads is bounded


def test_tokens_of_users_prove_as_they_come_unless_the_device_made_them_alone() -> None:
    time = test_readiness.VirtualClock()
    one = proof.Proof(clock=time)
    one.emitted(emission(types.TokenOrigin.DEVICE))
    assert one.age_s == float("inf")
    one.emitted(emission(types.TokenOrigin.VERIFIED))
    time.time_s += 3
    assert one.age_s == 3


def test_answers_that_failed_measure_nothing() -> None:
    time = test_readiness.VirtualClock()
    one = proof.Proof(clock=time)
    one.ended(answered(time, error=errors.UnavailableError("gone")))
    said = one.document(reason="", revision="", model_digest="")
    assert said["roundTripMicroseconds"] is said["tokensPerSecond"] is None


async def until(time: test_readiness.FrozenClock, seconds: float) -> None:
    """Lets time pass a second at a time."""
    for _ in range(round(seconds)):
        time.time_s += 1
        for _ in range(20):
            await asyncio.sleep(0)


class Kept:
    """A device that has become ready, whose proofs come from its probes and from `one.emitted`."""

    def __init__(self) -> None:
        self.time = test_readiness.FrozenClock()
        self.one = proof.Proof(clock=self.time)
        self.probe = test_readiness.ToyProbe()
        self.sent_at_s: list[float] = []
        self.readiness = readiness.Readiness(
            self, cloud=test_readiness.ToyCloud(), clock=self.time, proof_age_s=lambda: self.one.age_s
        )

    async def send(self) -> None:
        self.sent_at_s.append(self.time.now())
        await self.probe.send()
        self.one.emitted(emission(types.TokenOrigin.CLOUD))

    async def run(self, *, seconds: float, users: bool = False) -> None:
        keeping = asyncio.create_task(self.readiness.keep(on_ready=lambda: None, on_waiting=lambda _: None))
        for _ in range(20):
            await asyncio.sleep(0)
        for _ in range(round(seconds / 5)):
            await until(self.time, 5)
            if users:
                self.one.emitted(emission(types.TokenOrigin.VERIFIED))
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_an_idle_device_proves_itself_again_but_not_often() -> None:
    kept = Kept()
    await kept.run(seconds=600)
    gaps = [later - earlier for earlier, later in zip(kept.sent_at_s, kept.sent_at_s[1:], strict=False)]
    assert 15 <= len(gaps) <= 30
    assert min(gaps) >= 20
    assert max(gaps) < 40  # a proof that the operator looks at is never a minute old


async def test_a_busy_device_sends_no_probes() -> None:
    kept = Kept()
    await kept.run(seconds=600, users=True)
    assert len(kept.sent_at_s) == 1


async def test_an_idle_device_whose_probe_fails_is_not_ready() -> None:
    kept = Kept()
    keeping = asyncio.create_task(kept.readiness.keep(on_ready=lambda: None, on_waiting=lambda _: None))
    await until(kept.time, 3)
    assert kept.readiness.reason == ""
    kept.probe.failure = errors.UnavailableError("certificate unknown")
    await until(kept.time, 40)
    assert kept.readiness.reason == "certificate unknown"
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


async def test_a_full_cloud_leaves_the_device_ready_and_the_proof_to_age() -> None:
    kept = Kept()
    keeping = asyncio.create_task(kept.readiness.keep(on_ready=lambda: None, on_waiting=lambda _: None))
    await until(kept.time, 3)
    kept.probe.failure = errors.TooManySessions("full")
    await until(kept.time, 100)
    assert kept.readiness.reason == ""
    assert kept.one.age_s > 60
    assert len(kept.sent_at_s) <= 6  # it does not hammer
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


CLOUD = role_config.CloudRoleConfig(
    topology="chat",
    name="chat-cloud",
    model=role_config.ModelFiles(path="/models/a", served_name="a", dtype=kinds.Dtype.FLOAT32),
    slice=role_config.SliceBounds(start=1, end=4),
)


def test_a_replicas_own_name_and_revision_come_from_the_environment() -> None:
    assert environment.lay_over(CLOUD, {"PATH": "/bin"}) is CLOUD
    own = environment.lay_over(CLOUD, {"MILLINER_NAME": "chat-cloud-7d9f-x2x4z", "MILLINER_REVISION": "5f6d"})
    assert own == CLOUD.model_copy(update={"name": "chat-cloud-7d9f-x2x4z", "revision": "5f6d"})


def test_a_name_that_is_none_is_refused_and_the_variable_named() -> None:
    with pytest.raises(contract_errors.SpecInvalid, match="MILLINER_NAME") as refused:
        environment.lay_over(CLOUD, {"MILLINER_NAME": "Not A Name"})
    assert [problem.path for problem in refused.value.problems] == ["name"]


async def test_a_cloud_that_is_full_proves_no_less_and_says_so() -> None:
    """Under full load no probe found room for a minute, and every idle device's proof grew stale."""
    time, toy_probe = test_readiness.FrozenClock(), test_readiness.ToyProbe()
    one = proof.Proof(clock=time)
    one.refused_for_capacity()
    assert not one.document(reason="", revision="", model_digest="")["ok"], "nothing was proven before"
    one.probed(answered(time))
    ready = readiness.Readiness(
        toy_probe,
        cloud=test_readiness.ToyCloud(),
        clock=time,
        proof_age_s=lambda: one.age_s,
        on_full=one.refused_for_capacity,
    )
    keeping = asyncio.create_task(ready.keep(on_ready=lambda: None, on_waiting=lambda _: None))
    for _ in range(50):
        await asyncio.sleep(0)
    before = one.document(reason="", revision="", model_digest="")
    toy_probe.failure = errors.TooManySessions("full")
    for _ in range(100):
        time.time_s += 1.0
        for _ in range(10):
            await asyncio.sleep(0)
    keeping.cancel()
    after = one.document(reason="", revision="", model_digest="")
    assert one.age_s < 40.0 and after["cloudIsFull"] and not before["cloudIsFull"]
    assert after["tokensPerSecond"] == before["tokensPerSecond"]
    one.emitted(emission(types.TokenOrigin.CLOUD))
    assert not one.document(reason="", revision="", model_digest="")["cloudIsFull"]
