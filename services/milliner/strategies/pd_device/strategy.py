"""One request on both tiers: the cloud's tokens first, the device's prefill meanwhile, then the device's own tokens.

Three things run side by side. The *cloud's reader* puts its tokens into the relay. The *device* prefills the prompt,
then the tokens that are known by then, and takes over when it has seen all but the last: it goes on from there and the
cloud is told to stop. The *answer* shows tokens from the relay at the pace of `pacing`.

The device needs no cloud: whatever happens to the stream, before its first token or after any other, the device goes
on as soon as it has caught up. With the same model on both tiers the answer is the same, wherever the hand-over falls.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncGenerator

from milliner.core import errors, generation, types
from milliner.strategies import answer as answers
from milliner.strategies import cloud_tokens, lengths, whole_request
from milliner.strategies import options as strategy_options
from milliner.strategies.pd_device import pacing, profile, relay, settings
from milliner.telemetry import record as records
from milliner.telemetry.phases import Phase

_log = logging.getLogger(__name__)

_PREFILL_TOKENS = 128  # of the prompt at a time, so that the estimate of catching up stays current; arbitrary


class PDDevice:
    """Implements `strategies.base.Generator`."""

    def __init__(
        self,
        cloud: cloud_tokens.CloudPorts,
        device: whole_request.DevicePorts,
        options: strategy_options.PDDeviceOptions,
    ) -> None:
        self._cloud = cloud
        self._device = device
        self._options = options
        self._profile = profile.Profile()

    async def measure(self) -> None:
        """Measures the device, so that the first request's settings are right; call it before the first."""
        await self._profile.measure(self._device.model, clock=self._device.clock)

    async def generate(
        self, request: types.GenerationRequest, request_record: records.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """Emissions of one answer; see `Generator`."""
        limits = (self._device.model.info.max_positions, self._cloud.info.max_positions)
        lengths.check(request, max_positions=min(limits))
        sampler = whole_request.sampler_of(request, self._device.new_seed)
        session = await whole_request.open_on_device(self._device, request, sampler)
        hand_over = _HandOver(
            request,
            request_record,
            cloud=self._cloud,
            device=self._device,
            session=session,
            sampler=sampler,
            options=self._options,
            profile=self._profile,
        )
        try:
            async with contextlib.aclosing(hand_over.emissions()) as emissions:
                async for emission in emissions:
                    yield emission
        finally:
            await session.close()
            self._device.openings.freed()


class _HandOver:
    """One request while it runs."""

    def __init__(
        self,
        request: types.GenerationRequest,
        record: records.RequestRecord,
        *,
        cloud: cloud_tokens.CloudPorts,
        device: whole_request.DevicePorts,
        session: generation.WholeSession,
        sampler: generation.Sampler,
        options: strategy_options.PDDeviceOptions,
        profile: profile.Profile,
    ) -> None:
        self._request = request
        self._record = record
        self._cloud = cloud
        self._clock = device.clock
        self._session = session
        self._sampler = sampler
        self._options = options
        self._profile = profile
        self._relay = relay.Relay()
        self._pacing = pacing.Pacing(min_s=options.min_interval_s, max_s=options.max_interval_s)
        self._answer = answers.Answer(request)
        self._prompt_tokens = len(request.prompt_ids)
        self._fed = 0  # tokens of prompt and answer that the device has seen
        self._cloud_limit = 0
        self._reading: asyncio.Future[None] | None = None
        self._start_s = self._clock.now()

    async def emissions(self) -> AsyncGenerator[types.Emission, None]:
        """Tokens as they are shown; whatever ends it, nothing of the request runs on."""
        self._reading = asyncio.ensure_future(self._read_cloud())
        tiers = [self._reading, asyncio.ensure_future(self._run_device())]
        self._record.start_round(0, "prefill")
        try:
            shown_s = self._clock.now()
            while not self._answer.finished:
                index = self._answer.num_tokens
                token = await self._next_token(index, shown_s=shown_s)
                shown_s = self._clock.now()
                emission = self._answer.take((token,))
                self._record.emitted(len(emission.tokens))
                self._record.end_round()
                yield emission
                self._record.start_round(index + 1, token.origin.value)
        finally:
            for tier in tiers:
                tier.cancel()
            await asyncio.gather(*tiers, return_exceptions=True)

    # -- what is shown -------------------------------------------------------------------------------------------

    async def _next_token(self, index: int, *, shown_s: float) -> types.EmittedToken:
        waiting_s = self._clock.now()
        token = await self._relay.known(index)
        phase = Phase.DEVICE_FORWARD if token.origin is types.TokenOrigin.DEVICE else Phase.CLOUD_FORWARD
        self._record.add(phase, self._clock.now() - waiting_s)
        if index > 0:
            with self._record.phase(Phase.PACE):
                await self._pause(index, shown_s=shown_s)
        return token

    async def _pause(self, index: int, *, shown_s: float) -> None:
        """Until the token at `index` is due; looked at again whenever something changes."""
        while (left_s := shown_s + self._interval_s(index) - self._clock.now()) > 0.0:
            await self._relay.news(within_s=left_s, clock=self._clock)

    def _interval_s(self, index: int) -> float:
        buffered = self._relay.num_tokens - index
        if self._relay.taken_over:
            return self._pacing.caught_up(step_s=self._profile.step_s, buffered=buffered)
        expected = 0 if self._relay.cloud_done else max(0, self._cloud_limit - self._relay.num_tokens)
        behind = self._prompt_tokens + self._relay.num_tokens - self._fed
        until_s = behind * self._profile.prefill_s + self._profile.step_s
        return self._pacing.behind(until_caught_up_s=until_s, buffered=buffered, expected=expected)

    # -- the cloud -----------------------------------------------------------------------------------------------

    async def _read_cloud(self) -> None:
        """The cloud's tokens into the relay, until it has given its share or is lost."""
        try:
            self._cloud_limit = self._choose_cloud_tokens()
            asked = _first(self._request, self._cloud_limit)
            stream = await cloud_tokens.open_stream(self._cloud, asked, self._sampler, record=self._record)
            try:
                last = False
                while not last:
                    found = await stream.receive()
                    last = found.last
                    if found.index == 0:
                        self._profile.cloud_first_token(self._prompt_tokens, self._clock.now() - self._start_s)
                    self._relay.put_cloud(found.index, found.step.token)
            finally:
                await stream.close()
        except errors.MillinerError as error:
            self._record.count(fallbacks=1)
            if self._options.fails_without_cloud:
                self._relay.fail(error)
                return
            _log.info("the cloud gives no tokens (%s): the device goes on alone", error)
        finally:
            self._relay.end_cloud()

    def _choose_cloud_tokens(self) -> int:
        found = settings.cloud_tokens(
            self._profile.device,
            prompt_tokens=self._prompt_tokens,
            interval_s=pacing.AIM_SHARE * self._options.max_interval_s,
            first_token_s=self._profile.first_token_s(self._prompt_tokens),
        )
        most = min(self._options.max_cloud_tokens, self._request.max_new_tokens)
        return most if found is None or self._options.fixed_cloud_tokens else min(found, most)

    # -- the device ----------------------------------------------------------------------------------------------

    async def _run_device(self) -> None:
        try:
            await self._catch_up()
            await self._go_on()
        except Exception as error:  # the reader of the relay raises it: a failure must not look like silence
            self._relay.fail(error)

    async def _catch_up(self) -> None:
        """The device sees all that is known but the last token, which it will go on from."""
        while behind := self._unseen()[:-1]:
            chunk = behind[:_PREFILL_TOKENS]
            start_s = self._clock.now()
            if num_computed := await self._session.prefill(chunk):
                self._profile.prefilled(num_computed, self._clock.now() - start_s)
            self._fed += len(chunk)

    async def _go_on(self) -> None:
        """The device's own tokens, from where it has caught up."""
        num_cloud = self._relay.take_over()
        if self._reading is not None:
            self._reading.cancel()  # which ends the stream: the cloud generates for nobody no more
        self._record.count(cloud_tokens=num_cloud)
        left = self._request.max_new_tokens - num_cloud
        unseen = self._unseen()
        if left <= 0 or (num_cloud and unseen[-1] in self._request.stop_token_ids):
            return
        steps = self._session.generate(unseen, limit=left, stop_token_ids=self._request.stop_token_ids)
        async with contextlib.aclosing(steps):
            async for step in steps:
                self._profile.stepped(step.compute_s + step.queue_s)
                self._relay.put_device(step.token)

    def _unseen(self) -> list[int]:
        """Prompt and known tokens that the device has not seen."""
        prompt = self._request.prompt_ids
        if self._fed < len(prompt):
            return [*prompt[self._fed :], *self._relay.ids_from(0)]
        return self._relay.ids_from(self._fed - len(prompt))


def _first(request: types.GenerationRequest, max_tokens: int) -> types.GenerationRequest:
    """The request for the first `max_tokens` of an answer; a full cloud is no reason to wait, as the device goes on."""
    return dataclasses.replace(request, max_new_tokens=max_tokens, waits_for_room=False)
