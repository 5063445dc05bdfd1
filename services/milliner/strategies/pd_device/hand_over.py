"""One request on both tiers: the cloud's tokens first, the device's prefill meanwhile, then the device's own tokens.

Three things run side by side. The *cloud's share* puts its tokens into the relay. The *device* sees the prompt, then
the tokens that are known by then, and takes over when it has seen all but the last: it goes on from there and the cloud
is told to stop. The *answer* shows tokens from the relay at the pace of `pacing`.

With a refined prompt the device sees what the cloud keeps of it: after waiting for that, or as soon as it comes.

The device needs no cloud: whatever happens to the stream, before its first token or after any other, the device goes
on as soon as it has caught up. With the same model on both tiers and a whole prompt the answer is the same, wherever
the hand-over falls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator

from milliner.core import errors, generation, tasks, types
from milliner.strategies import answer as answers
from milliner.strategies import cloud_tokens, whole_request
from milliner.strategies import options as strategy_options
from milliner.strategies.pd_device import cloud_share, feed, pacing, profile, relay, settings
from milliner.telemetry import record as records
from milliner.telemetry.phases import Phase

_log = logging.getLogger(__name__)

_PREFILL_TOKENS = 128  # of the prompt at a time, so that the estimate of catching up stays current; arbitrary
_UNREFINED_TOKENS = 32  # until it is known what is kept: what is not is computed for nothing; arbitrary
# Of the time to the cloud's first token as expected: so long a device waits for it, where it needs to know what is kept
# of its prompt or leaves the answer to the cloud. Arbitrary.
_PATIENCE = 2.0
# So much later than expected it still counts as on its way, where the device could begin with its own. Arbitrary.
_ABOUT_NOW = 1.2


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
        self._session = session
        self._options = options
        self._profile = measured
        self._settings = chosen
        self._aims = aims_of(options)
        self._relay = relay.Relay()
        self._feed = feed.Feed(request.prompt_ids, cached_tokens=session.cached_tokens)
        self._cloud = cloud_share.CloudShare(
            cloud,
            request,
            sampler=sampler,
            known=self._relay,
            measured=measured,
            record=record,
            on_kept=self._feed.select,
        )
        self._pacing = pacing.Pacing(min_s=options.min_interval_s, max_s=options.max_interval_s)
        self._answer = answers.Answer(request)
        self._in_flight = 0  # tokens that the device is given now
        self._computed, self._computed_s = 0, 0.0  # tokens that it has computed, and how long that took
        self._reading: asyncio.Task[None] | None = None
        self._start_s = self._clock.now()

    async def emissions(self) -> AsyncGenerator[types.Emission, None]:
        """Tokens as they are shown; whatever ends it, nothing of the request runs on."""
        self._reading = asyncio.create_task(self._read_cloud())
        tiers = [self._reading, asyncio.create_task(self._run_device())]
        self._record.start_round(0, "prefill")
        try:
            shown_s = self._clock.now()
            while not self._answer.finished:
                index = self._answer.num_tokens
                token = await self._next_token(index, shown_s=shown_s)
                shown_s = self._clock.now()
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
        expected = 0 if self._relay.cloud_done else max(0, self._cloud.limit - self._relay.num_tokens)
        until_s = self._behind() * self._prefill_s() + self._profile.step_s
        return self._pacing.behind(until_caught_up_s=until_s, buffered=buffered, expected=expected)

    def _behind(self) -> int:
        """Tokens that are known and the device has not seen."""
        return self._feed.unseen(self._relay.ids_from(0)) + self._in_flight

    def _prefill_s(self) -> float:
        """What a token has taken the device in this request; what it usually takes, before that is known."""
        return self._computed_s / self._computed if self._computed >= _PREFILL_TOKENS else self._profile.prefill_s

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

    # -- the device ----------------------------------------------------------------------------------------------

    async def _run_device(self) -> None:
        try:
            await self._catch_up()
            await self._go_on()
        except Exception as error:  # the reader of the relay raises it: a failure must not look like silence
            self._relay.fail(error)

    async def _catch_up(self) -> None:
        """The device sees all that is known but the last token, which it will go on from."""
        if self._settings.waits:
            await self._wait_for_what_is_kept()
        while (behind := self._next_chunk()) or await self._holds_back():
            if behind:
                await self._see(behind)
                self._correct()
        self._profile.caught_up(self._computed, self._computed_s)

    async def _wait_for_what_is_kept(self) -> None:
        """Until the cloud has said what it keeps of the prompt, or is late. What is cached of it is seen meanwhile."""
        if cached := self._feed.cached_left:
            await self._session.prefill(self._feed.take((), at_most=cached))
        await tasks.set_within(self._cloud.has_begun, self._patience_s(_PATIENCE), clock=self._clock)

    def _patience_s(self, factor: float) -> float:
        """From now on until `factor` times what the cloud's first token is expected to take."""
        expected_s = self._profile.cloud(len(self._request.prompt_ids)).first_token_s
        return max(0.0, self._start_s + factor * expected_s - self._clock.now())

    def _next_chunk(self) -> list[int]:
        """What the device is given next, without the last known token."""
        known = self._relay.ids_from(0)
        refines = self._settings.kept_share < 1.0 and not self._cloud.has_begun.is_set()
        most = _UNREFINED_TOKENS if refines else _PREFILL_TOKENS
        return self._feed.take(known, at_most=min(most, self._feed.unseen(known) - 1))

    async def _see(self, token_ids: list[int]) -> None:
        """Gives the device a chunk."""
        self._in_flight = len(token_ids)
        start_s = self._clock.now()
        num_computed = await self._session.prefill(token_ids)
        self._in_flight = 0
        if num_computed:
            took_s = self._clock.now() - start_s
            self._computed += num_computed
            self._computed_s += took_s
            self._profile.prefilled(num_computed, took_s)

    def _correct(self) -> None:
        """Moves the cloud's limit to where the device will take over, as it looks now."""
        if self._cloud.first_token_s is None or self._settings.holds_back:
            return
        prefill_s, shown_s = self._prefill_s(), self._aims.shown_s
        if prefill_s >= shown_s:
            return
        since_s = self._clock.now() - self._cloud.first_token_s
        behind_s = (self._behind() - self._relay.num_tokens) * prefill_s + self._profile.step_s
        wanted = settings.cloud_tokens(since_s + behind_s, interval_s=shown_s, prefill_s=prefill_s)
        self._cloud.aim_for(min(wanted, most_cloud_tokens(self._options, self._request)))

    async def _holds_back(self) -> bool:
        """Whether the device lets the cloud go on although it has caught up: where its tokens come sooner."""
        known, own_s = self._relay.num_tokens, self._profile.step_s
        if self._relay.cloud_done:
            return False
        if self._settings.holds_back:
            within_s = own_s if known else max(own_s, self._patience_s(_PATIENCE))
        elif known:
            within_s = 0.0
        elif self._settings.explores:
            within_s = own_s
        else:  # not for one that is expected later than the device's own
            within_s = min(own_s, self._patience_s(_ABOUT_NOW)) if self._patience_s(1.0) <= own_s else 0.0
        if within_s > 0.0:
            await self._relay.news(within_s=within_s, clock=self._clock)
        return self._relay.num_tokens > known

    async def _go_on(self) -> None:
        """The device's own tokens, from where it has caught up."""
        still_awaited = not self._relay.cloud_done  # neither refused nor lost
        num_cloud = self._relay.take_over()
        if self._reading is not None:
            self._reading.cancel()  # which ends the stream: the cloud generates for nobody no more
        self._record.count(prompt_tokens_left_out=self._feed.left_out)
        left = self._request.max_new_tokens - num_cloud
        unseen = self._feed.take(self._relay.ids_from(0))
        if left <= 0 or (num_cloud and unseen[-1] in self._request.stop_token_ids):
            return
        steps = self._session.generate(
            unseen, limit=left, stop_token_ids=self._request.stop_token_ids, left_out=self._feed.left_out
        )
        async with contextlib.aclosing(steps):
            async for step in steps:
                if self._relay.num_tokens == 0 and still_awaited:
                    overtaken_s = self._clock.now() - self._start_s
                    self._profile.cloud_was_overtaken(len(self._request.prompt_ids), overtaken_s)
                self._profile.stepped(step.compute_s + step.queue_s)
                self._relay.put_device(step.token)


def aims_of(options: strategy_options.PDDeviceOptions) -> settings.Aims:
    """The aims of a topology, as the settings want them."""
    return settings.Aims(first_token_s=options.first_token_s, token_s=options.max_interval_s)


def most_cloud_tokens(options: strategy_options.PDDeviceOptions, request: types.GenerationRequest) -> int:
    """The most that the cloud may give of an answer."""
    return min(options.max_cloud_tokens, request.max_new_tokens)
