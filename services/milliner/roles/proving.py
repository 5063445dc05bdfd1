"""What a device knows of whether it serves: its readiness, the proof that `/probe` tells, and both kept current.

A device that needs its cloud is ready by a request through both tiers, which is its proof too. One that answers alone
while its cloud is away is ready without; there the cloud has a `Readiness` of its own, established by requests to it
alone, and only tokens of the cloud's prove anything. A device without a cloud proves itself by its own tokens.
Event loop only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable

from milliner.core import ports, types
from milliner.roles import probe, proof, readiness
from milliner.strategies import base
from milliner.telemetry import summary

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Behind:
    """The cloud of a device that answers alone while it is away: what asks it for all tokens of a request, what knows
    whether it can be reached, and who hears each time that it gives tokens again."""

    generator: base.Generator
    cloud: readiness.Cloud
    on_back: Callable[[], None] = lambda: None


class Proving:
    """See the module; `round_trip_s` is how long the device's last probe took."""

    def __init__(
        self,
        generator: base.Generator,
        *,
        cloud: readiness.Cloud,
        behind: Behind | None,
        alone: bool,
        vocab_size: int,
        clock: ports.Clock,
    ) -> None:
        self.proof = proof.Proof(clock=clock, alone=alone)
        self._clock = clock
        self._vocab_size = vocab_size
        self._probe = self._prober(generator, proves=behind is None)
        if behind is None:
            self.ready, self._behind = self._readiness(self._probe, cloud), None
            self._on_back: Callable[[], None] = lambda: None
            return
        self._on_back = behind.on_back
        self.ready = readiness.Readiness(self._probe, cloud=cloud, clock=clock)
        self._behind = self._readiness(self._prober(behind.generator, proves=True), behind.cloud, is_behind=True)

    @property
    def round_trip_s(self) -> float:
        return self._probe.round_trip_s

    def document(self, *, revision: str, model_digest: str) -> dict[str, object]:
        """What `/probe` answers."""
        reason = self.ready.reason or (self._behind.reason if self._behind is not None else "")
        return self.proof.document(reason=reason, revision=revision, model_digest=model_digest)

    def emitted(self, emission: types.Emission) -> None:
        """Tokens of somebody's answer became final."""
        self.proof.emitted(emission)

    def suspect(self) -> None:
        """The transport has met trouble."""
        for each in self._watches:
            each.suspect()

    def answer_failed(self) -> None:
        """An answer ended because the cloud was lost."""
        for each in self._watches:
            each.answer_failed()

    async def keep(self, *, on_ready: Callable[[], None], on_waiting: Callable[[str], None]) -> None:
        """Keeps all of it current until cancelled; see `Readiness.keep`, which this raises like."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.ready.keep(on_ready=on_ready, on_waiting=on_waiting))
            if self._behind is not None:
                group.create_task(self._behind.keep(on_ready=self._cloud_is_there, on_waiting=_cloud_is_awaited))

    @property
    def _watches(self) -> tuple[readiness.Readiness, ...]:
        return (self.ready,) if self._behind is None else (self.ready, self._behind)

    def _prober(self, generator: base.Generator, *, proves: bool) -> probe.Probe:
        on_success: Callable[[summary.RequestSummary], None] = self.proof.probed if proves else lambda _: None
        return probe.Probe(generator, vocab_size=self._vocab_size, clock=self._clock, on_success=on_success)

    def _readiness(
        self, prober: probe.Probe, cloud: readiness.Cloud, *, is_behind: bool = False
    ) -> readiness.Readiness:
        return readiness.Readiness(
            prober,
            cloud=cloud,
            clock=self._clock,
            proof_age_s=lambda: self.proof.age_s,
            on_full=self.proof.refused_for_capacity,
            is_behind=is_behind,
        )

    def _cloud_is_there(self) -> None:
        _log.info("the cloud gives tokens")
        self._on_back()


def _cloud_is_awaited(reason: str) -> None:
    _log.debug("the cloud is awaited: %s", reason)
