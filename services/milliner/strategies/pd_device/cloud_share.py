"""The cloud's share of an answer: its tokens into the relay, what it keeps of the prompt, and a limit that moves.

While the cloud generates, the limit follows what the device really needs: down ends the cloud's work in time (STOP), up
bridges what takes longer than thought (EXTEND). Once it has ended, its place is another's. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable

from milliner.core import errors, generation, types
from milliner.strategies import cloud_tokens
from milliner.strategies.pd_device import profile, relay
from milliner.telemetry import record as records

_log = logging.getLogger(__name__)

# Of the limit: smaller moves are not worth a message. A token too many costs the cloud a step, one too few is a gap in
# the answer. Arbitrary.
_WORTH_FEWER, _WORTH_MORE = 0.05, 0.02


class CloudShare:
    """One request's stream from the cloud. `limit` is how many tokens the cloud was asked for; `on_first` hears of
    the first token just before `has_begun`, and what the cloud keeps of the prompt, if it says so. The device can read
    `vocab_size` tokens."""

    def __init__(
        self,
        scope: cloud_tokens.CloudPorts,
        request: types.GenerationRequest,
        *,
        sampler: generation.Sampler,
        known: relay.Relay,
        measured: profile.Profile,
        record: records.RequestRecord,
        vocab_size: int,
        on_first: Callable[[tuple[tuple[int, int], ...] | None], None],
    ) -> None:
        self._on_first = on_first
        self._vocab_size = vocab_size
        self._scope = scope
        self._request = request
        self._sampler = sampler
        self._relay = known
        self._profile = measured
        self._record = record
        self._start_s = scope.clock.now()
        self._moved = asyncio.Event()
        self._refines = False  # whether the cloud was asked what it keeps
        self._computed_tokens = len(request.prompt_ids)  # of the prompt: what it has not computed before
        self.limit = 0
        self.first_token_s: float | None = None  # when it came
        self.has_begun = asyncio.Event()  # the first token came, or nothing will

    async def read(self, max_tokens: int, *, keep_share: float) -> None:
        """Asks for the first `max_tokens` of the answer and reads until the cloud has given them, or `aim_for`'s.

        Raises `MillinerError`s where it does not, and where the device could not go on from what it gives; a full cloud
        is no reason to wait, as the device goes on.
        """
        self.limit, self._refines = max_tokens, keep_share < 1.0
        asked = dataclasses.replace(self._request, max_new_tokens=max_tokens, waits_for_room=False)
        try:
            stream = await cloud_tokens.open_stream(
                self._scope, asked, self._sampler, record=self._record, keep_share=keep_share
            )
            self._record.cached_tokens = stream.opened.cached_tokens
            self._computed_tokens -= stream.opened.cached_tokens
            moving = asyncio.ensure_future(self._move_limit(stream))
            try:
                last = False
                while not last:
                    token = await stream.receive()
                    last = token.last
                    self._take(token)
            finally:
                moving.cancel()
                await stream.close()
                await asyncio.gather(moving, return_exceptions=True)
        finally:
            self.has_begun.set()
            self._relay.end_cloud()

    def aim_for(self, num_tokens: int) -> None:
        """The device will need `num_tokens` from the cloud: moves the limit there, if it is worth it."""
        share = _WORTH_MORE if num_tokens > self.limit else _WORTH_FEWER
        if abs(num_tokens - self.limit) > share * self.limit and not self._relay.cloud_done:
            self.limit = num_tokens
            self._moved.set()

    def _take(self, token: generation.CloudToken) -> None:
        token_id = token.step.token.token_id
        if token_id >= self._vocab_size:  # models of one tokenizer are padded to different sizes
            raise errors.ProtocolError(
                f"the cloud gave token {token_id}, the device's model has {self._vocab_size}", field="token_id"
            )
        self._profile.cloud_computed(self._computed_tokens, token)
        if token.index == 0:
            self.first_token_s = self._scope.clock.now()
            self._profile.cloud_first_token(self._computed_tokens, self.first_token_s - self._start_s)
            if token.kept is None and self._refines:
                self._profile.cloud_refines = False
            self._on_first(token.kept)
        self._relay.put_cloud(token.index, token.step.token)
        self.has_begun.set()

    async def _move_limit(self, stream: generation.TokenStream) -> None:
        """Tells the cloud of each new limit; one that cannot be told is the reader's trouble as well."""
        with contextlib.suppress(errors.MillinerError):
            while True:
                await self._moved.wait()
                self._moved.clear()
                _log.debug("the cloud is to give %d tokens", self.limit)
                await stream.set_limit(self.limit)
