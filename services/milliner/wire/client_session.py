"""One session seen from the device, whatever is said in it: deadlines, typed ends, nothing waits for ever.

`client_stream` (hidden states) and `token_client` (tokens) say what is sent and what may come. A reader task owned by
the session takes messages off the wire as they come, so that cancelling a wait never ends the RPC and an arrival is
not delayed by a busy caller. After a final error every call raises that error. Runs on the device's event loop.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Generic, Protocol, Self, TypeVar

import grpc

from milliner.core import errors, tasks
from milliner.wire import status


class Opened(Protocol):
    """What every service of a replica says when it has admitted a session."""

    @property
    def max_positions(self) -> int: ...


OpenedT = TypeVar("OpenedT", bound=Opened)
AnswerT = TypeVar("AnswerT")


@dataclasses.dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of a device's stream, each with its own name in the error. All arbitrary; a silent replica is found
    sooner, by its heartbeat (`replica`), and one whose heartbeat answers has `busy_s` instead of `send_s` and
    `reply_s`: giving up a long queue would replay a whole history into another, and every device would at once."""

    connect_s: float = 2.0  # TCP, TLS and HTTP/2 set-up to one endpoint
    open_s: float = 5.0  # Open sent to Opened received
    send_s: float = 30.0  # one frame's way into the transport, against back-pressure
    reply_s: float = 30.0  # waiting for the next reply or token while one is due
    busy_s: float = 120.0  # of a frame's way, a reply or a token, where the replica is known to live


DEFAULT_TIMEOUTS = Timeouts()


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect(Generic[OpenedT, AnswerT]):
    """One service of a replica. `parse` reads a message of the cloud and raises the error that it carries."""

    service: str
    method: str
    name: str  # in errors
    opened: type[OpenedT]
    parse: Callable[[bytes], OpenedT | AnswerT]


@dataclasses.dataclass(frozen=True, slots=True)
class Line(Generic[OpenedT]):
    """A replica as one session uses it; `alive` tells whether it is known to live, by other means than the session.

    `before` is what it answered to the session before; None where nobody knows or it has been in trouble since.
    `on_connected` is called when the connection stands.
    """

    channel: grpc.aio.Channel
    endpoint: str
    timeouts: Timeouts
    alive: Callable[[], bool]
    before: OpenedT | None = None
    on_connected: Callable[[], None] | None = None


class ClientSession(abc.ABC, Generic[OpenedT, AnswerT]):
    """See the module. Raises `UnavailableError` when the line has been given up meanwhile."""

    def __init__(self, line: Line[OpenedT], dialect: Dialect[OpenedT, AnswerT], *, traceparent: str) -> None:
        metadata = (("traceparent", traceparent),) if traceparent else None
        try:
            self._call = line.channel.stream_stream(dialect.method, None, None)(None, metadata=metadata)
        except grpc.aio.UsageError as error:  # the replica was given up while this opening waited for another one
            closed = f"the connection to {line.endpoint} is closed: {error}"
            raise errors.UnavailableError(closed, field="cloud") from error
        self._dialect = dialect
        self._alive = line.alive
        self._on_connected = line.on_connected
        self._timeouts = line.timeouts
        self._answers: asyncio.Queue[AnswerT | errors.MillinerError] = asyncio.Queue()
        self._ended: errors.MillinerError | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opened: OpenedT | None = None
        self._close_callbacks: list[Callable[[], None]] = []
        self.endpoint = line.endpoint
        self.bytes_sent = 0  # messages as serialised, without HTTP/2's framing (9 bytes a 16 KiB)
        self.bytes_received = 0

    @property
    def opened(self) -> OpenedT:
        """The cloud's answer to Open."""
        assert self._opened is not None
        return self._opened

    async def close(self) -> None:
        """Ends the session on both tiers; safe to call twice and after errors. Does not wait for the network."""
        self._end(errors.UnavailableError("the stream was closed on this side", field="session_id"))
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def on_close(self, callback: Callable[[Self], None]) -> None:
        """Called once with the session, when it has ended for whatever reason."""
        self._close_callbacks.append(lambda: callback(self))

    def fail(self, error: errors.MillinerError) -> None:
        """Ends the session with an error that was found elsewhere."""
        self._end(error)

    @abc.abstractmethod
    async def _read_answers(self) -> None:
        """What the reader does after Opened: ends by raising why the session has ended."""

    async def _open(self, data: bytes, *, within_s: float, expected: OpenedT | None = None) -> None:
        """Sends Open and waits for Opened. Raises the cloud's refusal, `DeadlineExceeded` or `UnavailableError`, and
        then leaves nothing behind.

        With `expected` it does not wait: these limits hold until Opened comes, and a refusal ends the session.
        """
        try:
            await self._connect()
            if self._on_connected is not None:
                self._on_connected()
            self._opened = expected
            async with self._deadline("Opened", within_s):
                await self._write(data)
                if expected is None:
                    self._opened = await self._read_opened()
        except BaseException:
            await self.close()
            raise
        reading = self._read_to_the_end(opened=expected is None)
        self._reader = asyncio.create_task(reading, name=f"session on {self.endpoint}")

    async def _take(self, what: str) -> AnswerT:
        """The next of `_answers`, after the last why there is none. Cancelling it loses nothing."""
        if self._answers.empty() and self._ended is not None:
            raise self._ended
        async with self._deadline(what, self._timeouts.reply_s, while_alive_s=self._timeouts.busy_s):
            answer = await self._answers.get()
        if isinstance(answer, errors.MillinerError):
            raise answer
        return answer

    async def _read(self) -> OpenedT | AnswerT | None:
        """The cloud's next message, None when it has ended the stream with success. Raises the error that the message
        carries, or why there is none."""
        try:
            data: object = await self._call.read()
        except asyncio.CancelledError:
            if tasks.being_cancelled():
                raise
            raise self._given_up() from None  # the call was cancelled, not we
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error
        if not isinstance(data, bytes):
            return None
        self.bytes_received += len(data)
        return self._dialect.parse(data)

    async def _write(self, data: bytes) -> None:
        try:
            await self._call.write(data)
        except asyncio.CancelledError:
            if tasks.being_cancelled():
                raise
            raise self._ended or self._given_up() from None  # the call was cancelled when the stream ended
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError) as error:
            raise await self._why_ended(error) from error
        self.bytes_sent += len(data)

    @contextlib.asynccontextmanager
    async def _deadline(self, what: str, seconds: float, *, while_alive_s: float = 0.0) -> AsyncIterator[None]:
        """Ends the stream after `seconds`, or after `while_alive_s` where the replica is known to live by then."""
        loop, granted_s = asyncio.get_running_loop(), max(seconds, while_alive_s)
        try:
            async with asyncio.timeout(granted_s) as limit:

                def look() -> None:
                    nonlocal granted_s
                    if not self._alive():  # one that dies later ends the stream by its heartbeat
                        granted_s = seconds
                        limit.reschedule(loop.time())

                looking = loop.call_later(seconds, look)
                try:
                    yield
                finally:
                    looking.cancel()
        except TimeoutError:
            error = self._late(what, granted_s)
            self._end(error)
            raise error from None

    def _end(self, error: errors.MillinerError) -> None:
        """Ends the stream for good: later calls raise `error`, a waiting `_take` wakes with it."""
        if self._ended is not None:
            return
        self._ended = error
        self._answers.put_nowait(error)
        self._call.cancel()
        for callback in self._close_callbacks:
            callback()

    async def _connect(self) -> None:
        connecting = asyncio.create_task(self._call.wait_for_connection())

        def wake(
            call: grpc.aio.Call,
        ) -> None:  # grpc.aio leaves it waiting for ever when the channel is closed meanwhile
            if call.cancelled():
                connecting.cancel()

        self._call.add_done_callback(wake)
        try:
            done, _ = await asyncio.wait([connecting], timeout=self._timeouts.connect_s)
        finally:
            connecting.cancel()
        if not done:
            raise self._late("connecting", self._timeouts.connect_s)
        if connecting.cancelled():
            raise self._given_up()
        try:
            connecting.result()
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from error

    async def _read_opened(self) -> OpenedT:
        message = await self._read()
        if message is None:
            raise self._over()
        if not isinstance(message, self._dialect.opened):
            raise errors.ProtocolError("the cloud's first message is no Opened", field="opened")
        return message

    async def _read_to_the_end(self, *, opened: bool) -> None:
        try:
            if not opened:
                async with self._deadline("Opened", self._timeouts.open_s):
                    self._opened = await self._read_opened()
            await self._read_answers()
        except errors.MillinerError as error:
            self._end(error)

    async def _why_ended(self, error: Exception) -> errors.MillinerError:
        """The reason behind a failed write: the cloud's last message says more than the transport's complaint."""
        if self._reader is None:  # still opening
            try:
                await self._read()
            except errors.MillinerError as refusal:
                return refusal
        else:
            await asyncio.wait([self._reader], timeout=self._timeouts.open_s)
        return self._ended or errors.UnavailableError(f"{self.endpoint}: {error}", field="cloud")

    def _failure(self, error: grpc.aio.AioRpcError) -> errors.MillinerError:
        return status.read_status(error, endpoint=self.endpoint, protocol=self._dialect.name)

    def _given_up(self) -> errors.UnavailableError:
        return errors.UnavailableError(f"the connection to {self.endpoint} was given up", field="cloud")

    def _over(self) -> errors.UnavailableError:
        return errors.UnavailableError(f"{self.endpoint} ended the stream", field="cloud")

    def _late(self, what: str, seconds: float) -> errors.DeadlineExceeded:
        return errors.DeadlineExceeded(f"{self.endpoint}: waited {seconds} s for {what}", field="cloud")
