"""One open cloud session seen from the device: frames out, replies in, errors typed, nothing waits for ever.

A reader task owned by the stream takes replies off the wire as they come, so that cancelling a `receive` never ends
the RPC and a reply's arrival is not delayed by a busy caller. Replies come in the order of frames. After a final
error every call raises that error. Implements `core.ports.CloudStream`; runs on the device's event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable

import grpc

from milliner.core import errors, tasks, types
from milliner.wire import layout, messages, options, status


@dataclasses.dataclass(frozen=True, slots=True)
class Timeouts:
    """Deadlines of a device's stream, each with its own name in the error. All arbitrary; a silent replica is found
    sooner, by its heartbeat (`replica`), and one whose heartbeat answers has `busy_s` instead of `send_s` and
    `reply_s`: giving up a long queue would replay a whole history into another, and every device would at once."""

    connect_s: float = 2.0  # TCP, TLS and HTTP/2 set-up to one endpoint
    open_s: float = 5.0  # Open sent to Opened received
    send_s: float = 30.0  # one frame's way into the transport, against back-pressure
    reply_s: float = 30.0  # waiting for the next reply while one is due
    busy_s: float = 120.0  # of a frame's way or a reply, where the replica is known to live


DEFAULT_TIMEOUTS = Timeouts()


class ClientStream:
    """An open session; made by `open_stream`. Sends and receives are independent; one of each at a time is served."""

    def __init__(
        self,
        call: grpc.aio.StreamStreamCall[bytes, bytes],
        *,
        request: types.SessionOpen,
        endpoint: str,
        timeouts: Timeouts,
        alive: Callable[[], bool],
    ) -> None:
        self._call = call
        self._request = request
        self._alive = alive
        self._timeouts = timeouts
        self._answers: asyncio.Queue[types.HiddenReply | errors.MillinerError] = asyncio.Queue()
        self._send_lock = asyncio.Lock()
        self._ended: errors.MillinerError | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opened: types.SessionOpened | None = None
        self._close_callbacks: list[Callable[[ClientStream], None]] = []
        self.endpoint = endpoint
        self.bytes_sent = 0  # messages as serialised, without HTTP/2's framing (9 bytes a 16 KiB)
        self.bytes_received = 0
        self.frames_in_flight = 0  # sent and not yet answered

    @property
    def opened(self) -> types.SessionOpened:
        """The cloud's answer to Open."""
        assert self._opened is not None
        return self._opened

    async def open(self, expected: types.SessionOpened | None) -> None:
        """Sends Open and waits for Opened. Raises the cloud's refusal, `DeadlineExceeded` or `UnavailableError`.

        With `expected` it does not wait: these limits hold until Opened comes, and a refusal ends the stream.
        """
        await self._connect()
        self._opened = expected
        async with self._deadline("Opened", self._timeouts.open_s):
            await self._write(messages.write_open(self._request))
            if expected is None:
                self._opened = await self._read_opened()
        self._reader = asyncio.create_task(self._read_answers(opened=expected is None), name="hidden-state replies")

    async def send(self, frame: types.HiddenFrame) -> None:
        """See `core.ports.CloudStream.send`. Raises `FrameTooLarge` before sending what the cloud would refuse."""
        self._check(frame)
        data = messages.write_frame(frame)
        async with self._send_lock:
            if self._ended is not None:
                raise self._ended
            self.frames_in_flight += 1
            async with self._deadline("sending a frame", self._timeouts.send_s, while_alive_s=self._timeouts.busy_s):
                await self._write(data)

    async def receive(self) -> types.HiddenReply:
        """See `core.ports.CloudStream.receive`. Cancelling it loses nothing."""
        if self._answers.empty() and self._ended is not None:
            raise self._ended
        async with self._deadline("a reply", self._timeouts.reply_s, while_alive_s=self._timeouts.busy_s):
            answer = await self._answers.get()
        if isinstance(answer, errors.MillinerError):
            raise answer
        return answer

    async def close(self) -> None:
        """Ends the session on both tiers; safe to call twice and after errors. Does not wait for the network."""
        self._end(errors.UnavailableError("the stream was closed on this side", field="session_id"))
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def on_close(self, callback: Callable[[ClientStream], None]) -> None:
        """Called once with the stream, when it has ended for whatever reason."""
        self._close_callbacks.append(callback)

    def fail(self, error: errors.MillinerError) -> None:
        """Ends the stream with an error that was found elsewhere."""
        self._end(error)

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
            raise status.read_status(error, endpoint=self.endpoint) from error

    async def _read(self) -> object:
        """The next message's bytes, or gRPC's end of stream."""
        try:
            return await self._call.read()
        except asyncio.CancelledError:
            if tasks.being_cancelled():
                raise
            raise self._given_up() from None  # the call was cancelled, not we

    def _given_up(self) -> errors.UnavailableError:
        return errors.UnavailableError(f"the connection to {self.endpoint} was given up", field="cloud")

    def _check(self, frame: types.HiddenFrame) -> None:
        if frame.num_tokens > self.opened.max_frame_tokens:
            raise errors.FrameTooLarge(
                f"{frame.num_tokens} positions in one frame, the cloud takes {self.opened.max_frame_tokens}",
                field="payloads",
            )
        if frame.num_bytes > options.MAX_PAYLOAD_BYTES:
            raise errors.FrameTooLarge(
                f"{frame.num_bytes} bytes in one frame, at most {options.MAX_PAYLOAD_BYTES}: send smaller chunks",
                field="payloads",
            )
        for index, payload in enumerate(frame.payloads):
            layout.check_payload(payload, self._request.hidden_size, field=f"payloads[{index}]")

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

    async def _why_ended(self, error: Exception) -> errors.MillinerError:
        """The reason behind a failed write: the cloud's last message says more than the transport's complaint."""
        if self._reader is None:  # still opening
            try:
                self._parse(await self._read())
            except grpc.aio.AioRpcError as status_error:
                return status.read_status(status_error, endpoint=self.endpoint)
            except errors.MillinerError as refusal:
                return refusal
        else:
            await asyncio.wait([self._reader], timeout=self._timeouts.open_s)
        return self._ended or errors.UnavailableError(f"{self.endpoint}: {error}", field="cloud")

    async def _read_opened(self) -> types.SessionOpened:
        try:
            message = self._parse(await self._read())
        except grpc.aio.AioRpcError as error:
            raise status.read_status(error, endpoint=self.endpoint) from error
        if not isinstance(message, types.SessionOpened):
            raise errors.ProtocolError("the cloud's first message is no Opened", field="opened")
        return message

    async def _read_answers(self, *, opened: bool) -> None:
        try:
            if not opened:
                async with self._deadline("Opened", self._timeouts.open_s):
                    self._opened = await self._read_opened()
            while True:
                data = await self._read()
                try:
                    message = self._parse(data)
                except errors.MillinerError as error:
                    if status.ends_stream(error):
                        raise
                    self._answer(error)
                    continue
                if not isinstance(message, types.HiddenReply) or self.frames_in_flight == 0:
                    raise errors.ProtocolError("the cloud sent a message that no frame asked for", field="reply")
                self._answer(message)
        except grpc.aio.AioRpcError as error:
            self._end(status.read_status(error, endpoint=self.endpoint))
        except errors.MillinerError as error:
            self._end(error)

    def _parse(self, data: object) -> types.SessionOpened | types.HiddenReply:
        """A message read; raises the error that it carries."""
        if not isinstance(data, bytes):
            raise errors.UnavailableError(f"{self.endpoint} ended the stream", field="cloud")
        self.bytes_received += len(data)
        message = messages.parse_cloud_message(data)
        if isinstance(message, types.SessionOpened | types.HiddenReply):
            return message
        raise status.read_error(message)

    def _answer(self, answer: types.HiddenReply | errors.MillinerError) -> None:
        self.frames_in_flight -= 1
        self._answers.put_nowait(answer)

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

    def _late(self, what: str, seconds: float) -> errors.DeadlineExceeded:
        return errors.DeadlineExceeded(f"{self.endpoint}: waited {seconds} s for {what}", field="cloud")

    def _end(self, error: errors.MillinerError) -> None:
        """Ends the stream for good: later calls raise `error`, a waiting `receive` wakes with it."""
        if self._ended is not None:
            return
        self._ended = error
        self._answers.put_nowait(error)
        self._call.cancel()
        for callback in self._close_callbacks:
            callback(self)


async def open_stream(
    channel: grpc.aio.Channel,
    request: types.SessionOpen,
    *,
    endpoint: str,
    timeouts: Timeouts,
    alive: Callable[[], bool] = lambda: False,
    expected: types.SessionOpened | None = None,
) -> ClientStream:
    """Opens a session over `channel`; nothing is left behind when it fails. `expected`: see `ClientStream.open`.

    `alive` tells whether the replica is known to live, by other means than this stream.
    """
    metadata = (("traceparent", request.traceparent),) if request.traceparent else None
    try:
        call = channel.stream_stream(messages.SESSION_METHOD, None, None)(None, metadata=metadata)
    except grpc.aio.UsageError as error:  # the replica was given up while this opening waited for another one
        raise errors.UnavailableError(f"the connection to {endpoint} is closed: {error}", field="cloud") from error
    stream = ClientStream(call, request=request, endpoint=endpoint, timeouts=timeouts, alive=alive)
    try:
        await stream.open(expected)
    except BaseException:
        await stream.close()
        raise
    return stream
