"""Whether a device is ready, over its whole life: established by a probe, lost with the cloud, established again.

Established: a replica says that it serves and a probe has gone through both tiers. Lost: no replica says that it
serves, asked every `_CHECK_EVERY_S` and at once when the transport meets trouble; or an answer ended because the cloud
was lost and a probe fails too. So one request that fails while another replica serves changes nothing.
Where `proof_age_s` is given, a device that nobody asks proves itself by a probe again and again: `_PROVE_EVERY_S` after
the last proof, drawn anew each time, so that a thousand devices do not ask together. `on_full` is told when replicas
answer and have no room for that probe.
What may pass (no replica, no capacity) is tried again after `_FIRST_DELAY_S`, twice that, up to `_LAST_DELAY_S`. What
cannot (another model in the cloud) ends a device that has never been ready; later it may be a roll-out, and is waited
for. With `is_behind` it is a cloud's readiness, behind a device that answers without it: nothing ends that device.
`keep` is a task of the device role; the HTTP API reads `reason` and `refusal`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from typing import NoReturn, Protocol

from milliner.core import errors, ports, tasks

_FIRST_DELAY_S = 0.3  # arbitrary
_LAST_DELAY_S = 2.4  # arbitrary: a cloud that is back is found soon
_CHECK_EVERY_S = 5.0  # arbitrary: half of the period of Kubernetes' own readiness probes
# Arbitrary, in seconds, from and to: thrice within the minute after which the operator calls a proof stale.
_PROVE_EVERY_S = (20.0, 26.0)

_log = logging.getLogger(__name__)


class Probe(Protocol):
    """A request through both tiers; raises `MillinerError` when it fails."""

    async def send(self) -> None: ...


class Cloud(Protocol):
    """What knows the replicas."""

    async def why_unreachable(self) -> str:
        """Why no replica could take a session now, or ""."""
        ...


class Readiness:
    """See the module. `reason` says in words what is missing, and is empty while the device is ready."""

    def __init__(
        self,
        probe: Probe,
        *,
        cloud: Cloud,
        clock: ports.Clock,
        proof_age_s: Callable[[], float] = lambda: 0.0,
        on_full: Callable[[], None] = lambda: None,
        is_behind: bool = False,
    ) -> None:
        self.reason = "no first request has succeeded yet"
        self._probe = probe
        self._cloud = cloud
        self._clock = clock
        self._ever_ready = False
        self._stopping = False
        self._suspected = asyncio.Event()
        self._answer_failed = False
        self._proof_age_s = proof_age_s
        self._on_full = on_full
        self._is_behind = is_behind
        self._probed_s = -math.inf
        self._prove_every_s = random.uniform(*_PROVE_EVERY_S)

    @property
    def refusal(self) -> str:
        """Why requests are refused at once, or "". A device that has been ready takes them while the cloud is away:
        they wait or fail as the topology's `fallback` says."""
        return "" if self._ever_ready and not self._stopping else self.reason

    def suspect(self) -> None:
        """The transport has met trouble: looks soon whether any replica is left."""
        self._suspected.set()

    def answer_failed(self) -> None:
        """An answer ended because the cloud was lost: looks soon whether another would."""
        self._answer_failed = True
        self._suspected.set()

    def stop(self) -> None:
        """Not ready any more, for good."""
        self._stopping = True
        self.reason = "the device is stopping"

    async def keep(self, *, on_ready: Callable[[], None], on_waiting: Callable[[str], None]) -> NoReturn:
        """Establishes readiness whenever it is missing; runs until cancelled.

        `on_ready` is called each time that it was established, `on_waiting` hears what is awaited. Raises
        `ConfigError` when the cloud serves something else than this device needs, before it was ever ready.
        """
        while True:
            await self.establish(on_waiting=on_waiting)
            on_ready()
            self._set(await self._until_lost())
            _log.warning("%snot ready any more: %s", "the cloud is " if self._is_behind else "", self.reason)
            on_waiting(self.reason)

    async def establish(self, *, on_waiting: Callable[[str], None]) -> None:
        """Tries until a probe succeeds. Raises as `keep` does."""
        delay_s = _FIRST_DELAY_S
        while reason := await self._cloud.why_unreachable() or _words(await self._probe_failure()):
            self._set(reason)
            on_waiting(reason)
            await self._clock.sleep(delay_s)
            delay_s = min(2 * delay_s, _LAST_DELAY_S)
        self._ever_ready = True
        self._set("")

    async def _until_lost(self) -> str:
        """Returns why the device is not ready any more."""
        while True:
            await tasks.set_within(self._suspected, _CHECK_EVERY_S, clock=self._clock)
            failed, self._answer_failed = self._answer_failed, False
            self._suspected.clear()
            if reason := await self._cloud.why_unreachable():
                return reason
            if failed or self._proof_is_due():
                failure = await self._probe_failure()
                if isinstance(failure, errors.CapacityError):
                    self._on_full()  # it serves somebody
                elif failure is not None:
                    return _words(failure)
            await self._clock.sleep(_FIRST_DELAY_S)  # failing answers shall not make a storm of looks

    def _proof_is_due(self) -> bool:
        """Whether neither a proof nor an attempt at one is recent."""
        since_s = self._clock.now() - self._probed_s
        return min(self._proof_age_s(), since_s) >= self._prove_every_s

    async def _probe_failure(self) -> errors.MillinerError | None:
        """What a probe fails of, or None. Raises `ConfigError` for what will not pass."""
        self._probed_s = self._clock.now()
        self._prove_every_s = random.uniform(*_PROVE_EVERY_S)
        try:
            await self._probe.send()
        except (errors.UnavailableError, errors.CapacityError) as error:
            return error
        except (errors.ProtocolError, errors.InputError) as error:
            if self._ever_ready or self._is_behind:
                return error
            raise errors.ConfigError(error.message, field=error.field) from error
        return None

    def _set(self, reason: str) -> None:
        if not self._stopping:
            self.reason = reason


def _words(failure: errors.MillinerError | None) -> str:
    return "" if failure is None else str(failure)
