"""One answer that a whole model in the cloud gives, seen from the device: tokens in, limits out.

The reader takes tokens as fast as the cloud gives them, so that a device which shows them slowly keeps no slot of the
cloud; what waits here is bounded by the tokens that were asked for. Implements `core.generation.TokenStream` on top of
`client_session`; runs on the device's event loop.
"""

from __future__ import annotations

import asyncio

from milliner.core import errors, generation
from milliner.wire import client_session, token_messages, token_spans

_SLOWEST_BYTES_PER_S = 125_000  # 1 Mbit/s: the poorest uplink on which a prompt is waited for (arbitrary)

DIALECT: client_session.Dialect[generation.GenerationOpened, generation.CloudToken] = client_session.Dialect(
    service=token_messages.SERVICE,
    method=token_messages.SESSION_METHOD,
    name="token protocol",
    opened=generation.GenerationOpened,
    parse=token_messages.parse_cloud_message,
)


class TokenClientStream(client_session.ClientSession[generation.GenerationOpened, generation.CloudToken]):
    """An open stream; made by `open_stream`."""

    def __init__(
        self, line: client_session.Line[generation.GenerationOpened], request: generation.GenerationOpen
    ) -> None:
        super().__init__(line, DIALECT, traceparent=request.traceparent)
        self._request = request
        self._limit_lock = asyncio.Lock()
        self._num_tokens = 0  # read
        self._complete = False  # the cloud gives no more

    async def open(self) -> None:
        """Sends Open with the prompt and waits for Opened. Raises the cloud's refusal, `DeadlineExceeded` or
        `UnavailableError`."""
        data = token_messages.write_open(self._request)
        await self._open(data, within_s=self._timeouts.open_s + len(data) / _SLOWEST_BYTES_PER_S)

    async def receive(self) -> generation.CloudToken:
        """See `core.generation.TokenStream.receive`. Cancelling it loses nothing."""
        return await self._take("a token")

    async def set_limit(self, max_tokens: int) -> None:
        """See `core.generation.TokenStream.set_limit`. Does nothing once the cloud has given its last token, nor
        for more than any session may have there. Raises why the stream has ended."""
        assert max_tokens >= 0
        most_positions = self.opened.max_positions
        if most_positions and len(self._request.prompt_ids) + max_tokens > most_positions:
            return
        data = token_messages.write_limit(max_tokens)
        async with self._limit_lock:
            if self._complete:
                return
            if self._ended is not None:
                raise self._ended
            try:
                async with self._deadline(
                    "sending a limit", self._timeouts.send_s, while_alive_s=self._timeouts.busy_s
                ):
                    await self._write(data)
            except errors.MillinerError:
                if not self._complete:  # it was on its way when the last token came
                    raise

    async def _read_answers(self) -> None:
        while (token := await self._read()) is not None:
            if not isinstance(token, generation.CloudToken) or token.index != self._num_tokens or self._complete:
                raise errors.ProtocolError(f"the cloud owed token {self._num_tokens} and sent another", field="token")
            token_spans.check_kept(token, self._request)
            self._num_tokens += 1
            self._complete = token.last
            self._answers.put_nowait(token)
        self._complete = True
        raise errors.ProtocolError(f"the cloud gave {self._num_tokens} tokens and no more", field="token")


async def open_stream(
    line: client_session.Line[generation.GenerationOpened], request: generation.GenerationOpen
) -> TokenClientStream:
    """Opens a stream; nothing is left behind when it fails."""
    stream = TokenClientStream(line, request)
    await stream.open()
    return stream
