"""The strategy: chooses the settings of each request and hands the answer over from tier to tier (`hand_over`)."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator

from milliner.core import generation, types
from milliner.strategies import cloud_tokens, lengths, whole_request
from milliner.strategies import options as strategy_options
from milliner.strategies.pd_device import hand_over, profile, settings
from milliner.telemetry import record as records

# Of requests in a row that the device answers sooner alone, the last one asks the cloud nevertheless: it may have
# become quicker. Arbitrary.
_ALONE_IN_A_ROW = 8
# Of requests in a row that the device leaves to the cloud because its own tokens take it too long, the last one has it
# measure that again, as no answer shows it. Arbitrary.
_LEFT_IN_A_ROW = 8


class PDDevice:
    """Implements `strategies.base.Generator`. `measured` is of another one with the same tiers, if there is one."""

    def __init__(
        self,
        cloud: cloud_tokens.CloudPorts,
        device: whole_request.DevicePorts,
        options: strategy_options.PDDeviceOptions,
        *,
        measured: profile.Profile | None = None,
    ) -> None:
        self._cloud = cloud
        self._device = device
        self._options = options
        self._profile = measured or profile.Profile()
        self._num_alone = 0  # requests in a row that did not ask the cloud
        self._num_in_vain = 0  # requests since a cloud worth asking that asked it nevertheless
        self._num_left = 0  # requests in a row that the device left to the cloud

    async def measure(self) -> None:
        """Measures the device, so that the first request's settings are right; call it before the first."""
        await self._profile.measure(self._device.model, clock=self._device.clock)

    def cloud_is_back(self) -> None:
        """A cloud that was away gives tokens: the next request asks it, whatever the last ones have found."""
        self._num_alone = _ALONE_IN_A_ROW

    async def generate(
        self, request: types.GenerationRequest, request_record: records.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """Emissions of one answer; see `Generator`."""
        limits = (self._device.model.info.max_positions, self._cloud.info.max_positions)
        lengths.check(request, max_positions=min(limits))
        sampler = whole_request.sampler_of(request, self._device.new_seed)
        session = await whole_request.open_on_device(self._device, request, sampler)
        try:
            request_record.cached_tokens = session.cached_tokens  # where the cloud is asked, it is what that says
            running = hand_over.HandOver(
                request,
                request_record,
                cloud=self._cloud,
                device=self._device,
                session=session,
                sampler=sampler,
                options=self._options,
                measured=self._profile,
                chosen=self._choose(request, session),
            )
            async with contextlib.aclosing(running.emissions()) as emissions:
                async for emission in emissions:
                    yield emission
        finally:
            await session.close()
            self._device.openings.freed()

    def _choose(self, request: types.GenerationRequest, session: generation.WholeSession) -> settings.Settings:
        options, most = self._options, hand_over.most_cloud_tokens(self._options, request, self._cloud)
        if options.fixed_cloud_tokens:
            return settings.Settings(cloud_tokens=most, holds_back=True)
        task = settings.Task(
            prompt_tokens=len(request.prompt_ids),
            most_tokens=most,
            cached_tokens=session.cached_tokens,
            least_kept=options.least_kept if self._profile.cloud_refines else 1.0,
        )
        # A guess that the answer's first token corrects: what the device has computed before, the cloud has as well.
        expected = self._profile.cloud(task.prompt_tokens - task.cached_tokens)
        aims = hand_over.aims_of(options)
        found = settings.choose(self._profile.device, expected, task, aims)
        self._num_left = self._num_left % _LEFT_IN_A_ROW + 1 if found.holds_back else 0
        if self._num_left == _LEFT_IN_A_ROW:
            return dataclasses.replace(found, measures_steps=True)
        if found.cloud_tokens:
            self._num_alone = self._num_in_vain = 0
            return found
        self._num_alone += 1
        # A stall is over for the next one; a cloud that stays away is asked less and less.
        in_a_row = min(2**self._num_in_vain, _ALONE_IN_A_ROW) if self._profile.cloud_overtaken else _ALONE_IN_A_ROW
        if self._num_alone < in_a_row:
            return found
        self._num_alone, self._num_in_vain = 0, self._num_in_vain + 1
        return settings.choose(self._profile.device, settings.CloudProfile(), task, aims)
