"""One session's stream of tokens on the cloud's side: Open, then tokens out as they come, limits in at any time.

Tokens that the device does not read fill the connection's window and `max_tokens_ahead` here; then the service is not
asked for more, and a device that goes on not reading loses its session. Every error is the stream's last message and
becomes its gRPC status; after the last token the stream ends with success. On top of `server_session`; runs on the
server's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging

import grpc

from milliner.core import errors, generation
from milliner.wire import server_session, status, token_messages

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class TokenLimits:
    """What one stream may take; all arbitrary."""

    open_timeout_s: float = 60.0  # from the stream's start to its Open message, which carries a prompt
    max_tokens_ahead: int = 16  # generated and not yet taken by the transport
    taken_within_s: float = 60.0  # the transport takes a token: longer is a device that does not read
    idle_s: float = 600.0  # between two tokens of the service; longer than a device waits for one


DEFAULT_LIMITS = TokenLimits()


class TokenServerStream(server_session.ServerSession[generation.GenerationOpen, generation.GenerationOpened]):
    """One stream; `run` returns when it is over."""

    def __init__(
        self,
        service: generation.TokenService,
        context: grpc.aio.ServicerContext[bytes, bytes],
        *,
        limits: TokenLimits,
        door: server_session.Door,
    ) -> None:
        super().__init__(context, door=door, open_within_s=limits.open_timeout_s, taken_within_s=limits.taken_within_s)
        self._service = service
        self._limits = limits
        # None: the service gives no more
        self._answers: asyncio.Queue[generation.CloudToken | errors.MillinerError | None] = asyncio.Queue(
            limits.max_tokens_ahead
        )

    def _parse_open(self, data: bytes) -> generation.GenerationOpen:
        message = token_messages.parse_device_message(data)
        if not isinstance(message, generation.GenerationOpen):
            raise errors.ProtocolError("found a Limit where the Open message belongs", field="open")
        return message

    async def _open(self, request: generation.GenerationOpen) -> generation.GenerationOpened:
        return await self._service.open(request)

    async def _close(self, session_id: str) -> None:
        await self._service.close(session_id)

    def _last_message(self, error: errors.MillinerError) -> bytes:
        return token_messages.write_error(error)

    async def _converse(self, request: generation.GenerationOpen, opened: generation.GenerationOpened) -> None:
        await self._write(token_messages.write_opened(opened))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write_tokens())
                group.create_task(self._generate(request.session_id))
                await self._read_limits(request, opened)
        except* server_session.StreamEnded:
            pass  # the last message is written, or nobody is there to read it

    async def _generate(self, session_id: str) -> None:
        """Puts the service's tokens in the order of answers, and behind them why there are no more."""
        end: errors.MillinerError | None = None
        try:
            async with contextlib.aclosing(self._service.generate(session_id)) as tokens:
                async for token in tokens:
                    await self._answers.put(token)
        except errors.MillinerError as error:
            end = error
        except Exception:
            _LOGGER.exception("generating failed")
            end = status.internal_error()
        await self._answers.put(end)

    async def _write_tokens(self) -> None:
        """Writes the answers in their order; ends the stream with the last."""
        while (answer := await self._next_answer()) is not None:
            if isinstance(answer, errors.MillinerError):
                await self._end(answer)
                break
            await self._write(token_messages.write_token(answer))
            if answer.last:
                break
        raise server_session.StreamEnded

    async def _next_answer(self) -> generation.CloudToken | errors.MillinerError | None:
        try:
            async with asyncio.timeout(self._limits.idle_s):
                return await self._answers.get()
        except TimeoutError:
            return errors.DeadlineExceeded(f"the model gave no token for {self._limits.idle_s:g} s", field="cloud")

    async def _read_limits(self, request: generation.GenerationOpen, opened: generation.GenerationOpened) -> None:
        """Passes limits on until the device sends no more; what else it sends ends the stream behind its tokens."""
        while isinstance(data := await self._context.read(), bytes):
            try:
                max_tokens = _parse_limit(data, request, opened)
                await self._service.set_limit(request.session_id, max_tokens)
            except errors.MillinerError as error:
                await self._answers.put(error)
                return
            except Exception:
                _LOGGER.exception("moving a limit failed")
                await self._answers.put(status.internal_error())
                return


def _parse_limit(data: bytes, request: generation.GenerationOpen, opened: generation.GenerationOpened) -> int:
    limit = token_messages.parse_device_message(data)
    if not isinstance(limit, token_messages.Limit):
        raise errors.ProtocolError("this stream's session is open already", field="open")
    most_tokens = opened.max_positions - len(request.prompt_ids)
    if opened.max_positions and limit.max_tokens > most_tokens:
        raise errors.ProtocolError(
            f"found {limit.max_tokens}: behind this prompt a session has room for {most_tokens}", field="max_tokens"
        )
    return limit.max_tokens
