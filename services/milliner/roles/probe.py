"""Whether a device is ready: a short request has gone through both tiers and come back. Event loop only.

The request runs the strategy itself, so it proves what clients will use (model, slice, wire, drafter) and warms it up.
What may pass (no replica yet, no capacity) is tried again; what cannot (another model, another slice) is raised.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from milliner.core import compute, errors, ports, types
from milliner.strategies import base
from milliner.telemetry import record

_PROMPT_TOKENS = 8  # arbitrary: more than one, so that a chunk is a batch
_NEW_TOKENS = 4  # arbitrary: a round or two after the first token
_RETRY_S = 0.3  # arbitrary


class Readiness:
    """`reason` says in words what is missing, and is empty once a probe has succeeded."""

    def __init__(self, generator: base.Generator, *, device: compute.DeviceInfo, clock: ports.Clock) -> None:
        self.reason = "no hidden-state round trip has succeeded yet"
        self.probe_s = 0.0
        self._generator = generator
        self._device = device
        self._clock = clock

    async def establish(self, *, on_waiting: Callable[[str], None]) -> None:
        """Probes until one succeeds; `on_waiting` hears why the last one did not.

        Raises `ConfigError` when the cloud serves something else than this device needs.
        """
        while True:
            try:
                await self._probe()
            except (errors.UnavailableError, errors.CapacityError) as error:
                self.reason = str(error)
                on_waiting(str(error))
                await self._clock.sleep(_RETRY_S)
            except errors.ProtocolError as error:
                raise errors.ConfigError(error.message, field=error.field) from error
            else:
                self.reason = ""
                return

    async def _probe(self) -> None:
        """One request, its first tokens awaited; both tiers are free again on the way out."""
        started_s = self._clock.now()
        request = types.GenerationRequest(
            request_id="probe",
            prompt_ids=tuple(index % self._device.vocab_size for index in range(1, _PROMPT_TOKENS + 1)),
            max_new_tokens=_NEW_TOKENS,
        )
        # A tracer that records nothing: probes are no requests of anybody.
        probe_record = record.RequestRecord(
            clock=self._clock, request_id="probe", operation="text_completion", model="", strategy=""
        )
        async with contextlib.aclosing(self._generator.generate(request, probe_record)) as emissions:
            async for _ in emissions:
                pass
        probe_record.finish(finish_reason="length")
        self.probe_s = self._clock.now() - started_s
