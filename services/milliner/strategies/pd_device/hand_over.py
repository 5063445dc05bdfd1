"""One request on both tiers: the cloud's tokens first, the device's prefill meanwhile, then the device's own tokens.

Three things run side by side. The *cloud's share* puts its tokens into the relay. The *device's share* sees prompt and
known tokens, takes over and puts its own there; the cloud is told to stop. The *answer* shows tokens from the relay at
the pace of `pacing`.

The device needs no cloud: whatever happens to the stream, before its first token or after any other, the device goes
on as soon as it has caught up. With the same model on both tiers and a whole prompt the answer is the same, wherever
the hand-over falls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from milliner.core import errors, generation, types
from milliner.strategies import answer as answers
from milliner.strategies import cloud_tokens, whole_request
from milliner.strategies import options as strategy_options
from milliner.strategies.pd_device import cloud_share, device_share, feed, pacing, profile, relay, settings
from milliner.telemetry import record as records
from milliner.telemetry.phases import Phase

_log = logging.getLogger(__name__)


class HandOver:
    """One request while it runs, with the `settings` that were chosen for it."""

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
        measured: profile.Profile,
        chosen: settings.Settings,
    ) -> None:
        self._request = request
        self._record = record
        self._clock = device.clock
        self._model = device.model
        self._options = options
        self._profile = measured
        self._settings = chosen
        self._relay = relay.Relay()
        self._feed = feed.Feed(request.prompt_ids, cached_tokens=session.cached_tokens)
        self._cloud = cloud_share.CloudShare(
            cloud,
            request,
            sampler=sampler,
            known=self._relay,
            measured=measured,
            record=record,
            vocab_size=device.model.info.vocab_size,
            on_first=self._has_begun,
        )
        self._device = device_share.DeviceShare(
            request,
            session,
            self._feed,
            clock=device.clock,
            cloud=self._cloud,
            known=self._relay,
            measured=measured,
            chosen=chosen,
            aims=aims_of(options),
            most_tokens=most_cloud_tokens(options, request, cloud),
        )
        self._pacing = pacing.Pacing(min_s=options.min_interval_s, max_s=options.max_interval_s)
        self._answer = answers.Answer(request)
        self._reading: asyncio.Task[None] | None = None
        self._began_s = 0.0  # when the interval to the next token began; of no meaning before the first

    async def emissions(self) -> AsyncGenerator[types.Emission, None]:
        """Tokens as they are shown; whatever ends it, nothing of the request runs on."""
        self._reading = asyncio.create_task(self._read_cloud())
        tiers = [self._reading, asyncio.create_task(self._run_device())]
        self._record.start_round(0, "prefill")
        try:
            while not self._answer.finished:
                index = self._answer.num_tokens
                token = await self._next_token(index)
                self._began_s = self._pacing.began(due_s=self._due_s(index), shown_s=self._clock.now())
                if index > 0:  # the first one stays the prefill
                    self._record.rename_round(token.origin.value)
                emission = self._answer.take((token,))
                self._record.emitted(len(emission.tokens))
                if token.origin is types.TokenOrigin.CLOUD:
                    self._record.count(cloud_tokens_shown=len(emission.tokens))
                self._record.end_round()
                yield emission
                self._record.start_round(index + 1, token.origin.value)
        finally:
            for tier in tiers:
                if not tier.cancelling():  # a second time would cut its way out short
                    tier.cancel()
            await asyncio.gather(*tiers, return_exceptions=True)

    # -- what is shown -------------------------------------------------------------------------------------------

    async def _next_token(self, index: int) -> types.EmittedToken:
        waiting_s = self._clock.now()
        token = await self._relay.known(index)
        phase = Phase.DEVICE_FORWARD if token.origin is types.TokenOrigin.DEVICE else Phase.CLOUD_FORWARD
        self._record.add(phase, self._clock.now() - waiting_s)
        if index > 0:
            with self._record.phase(Phase.PACE):
                await self._pause(index)
        return token

    async def _pause(self, index: int) -> None:
        """Until the token at `index` is due; looked at again whenever something changes."""
        while (left_s := self._due_s(index) - self._clock.now()) > 0.0:
            await self._relay.news(within_s=left_s, clock=self._clock)

    def _due_s(self, index: int) -> float:
        return self._began_s + self._interval_s(index) if index > 0 else self._clock.now()

    def _interval_s(self, index: int) -> float:
        buffered = self._relay.num_tokens - index
        own_s = self._pacing.caught_up(step_s=self._profile.step_s, buffered=buffered, complete=self._relay.complete)
        if self._relay.device_writes or self._relay.complete:
            return own_s
        until_s = self._device.until_caught_up_s
        if self._relay.taken_over:  # its first token is on its way
            return max(own_s, self._pacing.behind(until_caught_up_s=until_s, buffered=buffered, expected=0))
        expected = 0 if self._relay.cloud_done else max(0, self._cloud.limit - self._relay.num_tokens)
        return self._pacing.behind(until_caught_up_s=until_s, buffered=buffered, expected=expected)

    # -- the cloud -----------------------------------------------------------------------------------------------

    async def _read_cloud(self) -> None:
        """The cloud's tokens into the relay, until it has given its share or is lost."""
        if self._settings.cloud_tokens == 0:
            self._record.count(cloud_not_asked=1)
            self._cloud.has_begun.set()
            self._relay.end_cloud()
            return
        try:
            await self._cloud.read(self._settings.cloud_tokens, keep_share=self._settings.kept_share)
        except errors.MillinerError as error:
            self._record.count(fallbacks=1)
            if self._options.fails_without_cloud and not isinstance(error, errors.CapacityError):
                self._relay.fail(error)
                return
            _log.info("the cloud gives no tokens (%s): the device goes on alone", error)
        except Exception:  # nor may a fault of ours end an answer that needs no cloud, or go unheard
            self._record.count(fallbacks=1)
            _log.exception("reading the cloud's tokens failed: the device goes on alone")

    def _has_begun(self, kept: tuple[tuple[int, int], ...] | None) -> None:
        """The cloud's first token says what it keeps of the prompt, and so how much it has to give: a cloud that keeps
        all, though it was asked to refine, would have given its few tokens before the device's next chunk is seen."""
        if kept is not None:
            self._feed.select(kept)
        self._device.correct()

    # -- the device ----------------------------------------------------------------------------------------------

    async def _run_device(self) -> None:
        try:
            if self._settings.measures_steps:
                with contextlib.suppress(errors.CapacityError):  # another time
                    await self._profile.measure_steps(self._model, clock=self._clock)
            await self._device.catch_up()
            await self._device.go_on(self._stop_cloud)
            self._relay.end_device()
        except Exception as error:  # the reader of the relay raises it: a failure must not look like silence
            self._relay.fail(error)

    def _stop_cloud(self) -> None:
        """Ends the stream: the cloud generates for nobody no more."""
        self._record.count(prompt_tokens_left_out=self._feed.left_out)
        if self._reading is not None:
            self._reading.cancel()


def aims_of(options: strategy_options.PDDeviceOptions) -> settings.Aims:
    """The aims of a topology, as the settings want them."""
    return settings.Aims(first_token_s=options.first_token_s, token_s=options.max_interval_s)


def most_cloud_tokens(
    options: strategy_options.PDDeviceOptions, request: types.GenerationRequest, cloud: cloud_tokens.CloudPorts
) -> int:
    """The most that the cloud may give of an answer: what it has room for behind the prompt. One where that does not
    fit: that it never fits is the cloud's to say, which may have grown since."""
    most = min(options.max_cloud_tokens, request.max_new_tokens)
    room = cloud.max_positions()
    return max(1, min(most, room - len(request.prompt_ids))) if room else most
