"""The tokens of one answer as they become known, from whichever tier: in order, none twice, none lost.

The cloud writes until the device takes over; from then on only the device does. A token is known by its index, so a
cloud that is still sending what the device has generated meanwhile changes nothing. Event loop only.
"""

from __future__ import annotations

import asyncio

from milliner.core import ports, tasks, types


class Relay:
    """See the module. One per request."""

    def __init__(self) -> None:
        self._tokens: list[types.EmittedToken] = []
        self._news = asyncio.Event()  # set by the next news, which another one follows
        self._error: Exception | None = None
        self.taken_over = False
        self.device_writes = False  # its first token has come
        self.cloud_done = False  # no more tokens will come from the cloud
        self.complete = False  # no more tokens will come from anybody

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    def ids_from(self, index: int) -> list[int]:
        """Token ids known from `index` on."""
        return [token.token_id for token in self._tokens[index:]]

    def put_cloud(self, index: int, token: types.EmittedToken) -> None:
        """A token of the cloud's; ignored once the device has taken over."""
        if not self.taken_over:
            self._put(index, token)

    def put_device(self, token: types.EmittedToken) -> None:
        """The device's next token, after it has taken over."""
        assert self.taken_over
        self.device_writes = True
        self._put(len(self._tokens), token)

    def end_cloud(self) -> None:
        """The cloud gives no more: it has given its share, or it is lost."""
        self.cloud_done = True
        self._tell()

    def take_over(self) -> int:
        """From now on the device writes; returns how many tokens the cloud has given."""
        self.taken_over = True
        self._tell()
        return len(self._tokens)

    def end_device(self) -> None:
        """The device gives no more: the answer is known to its end."""
        self.complete = True
        self._tell()

    def fail(self, error: Exception) -> None:
        """The answer ends with what is known: whoever waits for more gets `error`."""
        self._error = error
        self.complete = True
        self._tell()

    async def known(self, index: int) -> types.EmittedToken:
        """The token at `index`, once it is known. Raises what `fail` was called with."""
        while len(self._tokens) <= index:
            if self._error is not None:
                raise self._error
            await self._news.wait()
        return self._tokens[index]

    async def news(self, *, within_s: float, clock: ports.Clock) -> None:
        """Until a token comes or a tier ends, `within_s` at most."""
        await tasks.set_within(self._news, within_s, clock=clock)

    def _put(self, index: int, token: types.EmittedToken) -> None:
        if index == len(self._tokens) and self._error is None:
            self._tokens.append(token)
            self._tell()

    def _tell(self) -> None:
        """Wakes all that wait now, and nobody later: an event of several waiters must not be cleared by one of them."""
        told, self._news = self._news, asyncio.Event()
        told.set()
