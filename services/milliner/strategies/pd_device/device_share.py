"""The device's share of a request: it catches up with prompt and answer, takes over, and goes on.

It sees the prompt, then the cloud's tokens as they are known; after each chunk it says anew how many the cloud should
give. When it has seen all but the last known token it goes on from there, unless the cloud's next one comes sooner. Of
a refined prompt it sees what the cloud keeps: after waiting for that, or from when it comes. Event loop only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from milliner.core import generation, ports, tasks, types
from milliner.strategies.pd_device import cloud_share, feed, profile, relay, settings

_PREFILL_TOKENS = 128  # of the prompt at a time, so that the estimate of catching up stays current; arbitrary
_UNREFINED_TOKENS = 32  # until it is known what is kept: what is not is computed for nothing; arbitrary
# Of the time to the cloud's first token as expected: so long a device waits for it, where it needs to know what is kept
# of its prompt or leaves the answer to the cloud. Arbitrary.
_PATIENCE = 2.0
# So much later than expected it still counts as on its way, where the device could begin with its own. Arbitrary.
_ABOUT_NOW = 1.2


class DeviceShare:
    """One request on the device's `session`, fed by `given`; the cloud may give `most_tokens`."""

    def __init__(
        self,
        request: types.GenerationRequest,
        session: generation.WholeSession,
        given: feed.Feed,
        *,
        clock: ports.Clock,
        cloud: cloud_share.CloudShare,
        known: relay.Relay,
        measured: profile.Profile,
        chosen: settings.Settings,
        aims: settings.Aims,
        most_tokens: int,
    ) -> None:
        self._request = request
        self._session = session
        self._feed = given
        self._clock = clock
        self._cloud = cloud
        self._relay = known
        self._profile = measured
        self._settings = chosen
        self._aims = aims
        self._most_tokens = most_tokens
        self._in_flight = 0  # tokens that the device is given now
        self._computed, self._computed_s = 0, 0.0  # tokens that it has computed, and how long that took
        self._new_tokens = len(request.prompt_ids) - session.cached_tokens  # of the prompt, to the cloud too (a guess)
        self._start_s = clock.now()

    @property
    def until_caught_up_s(self) -> float:
        """Until its first own token, as it looks now."""
        return self._behind() * self._prefill_s() + self._profile.step_s

    async def catch_up(self) -> None:
        """The device sees all that is known but the last token, which it will go on from; once the cloud gives no more
        it goes on from what is left as soon as that is short, which takes a pass less."""
        if self._settings.waits:
            await self._wait_for_what_is_kept()
        while not self._goes_on_from_what_is_left() and ((behind := self._next_chunk()) or await self._holds_back()):
            if behind:
                await self._see(behind)
                self.correct()
        self._profile.caught_up(self._computed, self._computed_s)

    def _goes_on_from_what_is_left(self) -> bool:
        """A short pass takes a device as long as a token of its own, so the last one gives the first. Alone, what is
        left is the prompt: nobody waits for tokens meanwhile that a chunk's end would correct the limit of."""
        known = self._relay.ids_from(0)
        return self._relay.cloud_done and (not known or self._feed.unseen(known) <= _PREFILL_TOKENS)

    async def _wait_for_what_is_kept(self) -> None:
        """Until the cloud has said what it keeps of the prompt, or is late. What is cached of it is seen meanwhile."""
        if cached := self._feed.cached_left:
            await self._session.prefill(self._feed.take((), at_most=cached))
        await tasks.set_within(self._cloud.has_begun, self._patience_s(_PATIENCE), clock=self._clock)

    def _patience_s(self, factor: float) -> float:
        """From now on until `factor` times what the cloud's first token is expected to take."""
        expected_s = self._profile.cloud(self._new_tokens).first_token_s
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
            self._profile.prefilled(num_computed, took_s)
            # Who leaves the answer to the cloud follows it token by token, of which each takes longer than in a prompt.
            if not (self._settings.holds_back and self._feed.num_answered):
                self._computed += num_computed
                self._computed_s += took_s

    def correct(self) -> None:
        """Moves the cloud's limit to where the device will take over, as it looks now."""
        if self._cloud.first_token_s is None or self._settings.holds_back:
            return
        prefill_s, shown_s = self._prefill_s(), self._aims.shown_s
        if prefill_s >= shown_s:
            return
        since_s = self._clock.now() - self._cloud.first_token_s
        behind_s = (self._behind() - self._relay.num_tokens) * prefill_s + self._profile.step_s
        wanted = settings.cloud_tokens(since_s + behind_s, interval_s=shown_s, prefill_s=prefill_s)
        self._cloud.aim_for(min(wanted, self._most_tokens))

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

    async def go_on(self, stop_cloud: Callable[[], None]) -> None:
        """Takes over: the device's own tokens, from where it has caught up."""
        still_awaited = not self._relay.cloud_done  # neither refused nor lost
        num_cloud = self._relay.take_over()
        stop_cloud()
        left = self._request.max_new_tokens - num_cloud
        unseen = self._feed.take(self._relay.ids_from(0))
        self._in_flight = len(unseen)
        if left <= 0 or (num_cloud and unseen[-1] in self._request.stop_token_ids):
            return
        steps = self._session.generate(
            unseen, limit=left, stop_token_ids=self._request.stop_token_ids, left_out=self._feed.left_out
        )
        sees_prompt = len(unseen) > 1  # in the first step, which so tells nothing of the others
        async with contextlib.aclosing(steps):
            async for step in steps:
                if self._relay.num_tokens == 0 and still_awaited:
                    overtaken_s = self._clock.now() - self._start_s
                    self._profile.cloud_was_overtaken(self._new_tokens, overtaken_s)
                if not sees_prompt:
                    self._profile.stepped(step.compute_s + step.queue_s)
                sees_prompt = False
                self._relay.put_device(step.token)

    def _behind(self) -> int:
        """Tokens that are known and the device has not seen."""
        return self._feed.unseen(self._relay.ids_from(0)) + self._in_flight

    def _prefill_s(self) -> float:
        """What a token has taken the device in this request; what it usually takes, before that is known."""
        return self._computed_s / self._computed if self._computed >= _PREFILL_TOKENS else self._profile.prefill_s
