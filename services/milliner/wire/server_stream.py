"""One session's stream on the cloud's side: Open, then frames in, replies out in the same order, errors in their place.

Frames are handed to the service as they arrive, up to `max_frames_in_flight` at once: the engine batches them and
keeps a session's frames in order, because each `forward` call is entered in the order of arrival. A frame refused for
a recoverable reason (`status.RECOVERABLE`) leaves the stream alive; every other error is the stream's last message
and becomes its gRPC status. A stream on which nothing happens ends too: the engine has forgotten its session by then.
On top of `server_session`; runs on the server's event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging

import grpc

from milliner.core import errors, ports, types
from milliner.wire import layout, messages, server_session, status

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class StreamLimits:
    """What one stream may take; all arbitrary, generous beside what strategies use."""

    open_timeout_s: float = 10.0  # from the stream's start to its Open message
    max_frames_in_flight: int = 64  # beyond it the stream is not read: back-pressure
    idle_s: float = 600.0  # since the last answer, with no frame due; longer than an engine keeps an idle session


DEFAULT_LIMITS = StreamLimits()
_IDLE_CHECKS = 4  # in `idle_s`, while a frame is being computed; arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """A message's place in the order of answers: its error, or the task that computes its frame.

    The task returns expected errors; it raises only when cancelled.
    """

    answer: errors.MillinerError | asyncio.Task[types.HiddenReply | errors.MillinerError]
    frame: types.HiddenFrame | None = None  # None: what came was no frame


class ServerStream(server_session.ServerSession[types.SessionOpen, types.SessionOpened]):
    """One stream; `run` returns when it is over."""

    def __init__(
        self,
        service: ports.CloudService,
        context: grpc.aio.ServicerContext[bytes, bytes],
        *,
        limits: StreamLimits,
        door: server_session.Door,
    ) -> None:
        super().__init__(context, door=door, open_within_s=limits.open_timeout_s, taken_within_s=limits.idle_s)
        self._service = service
        self._limits = limits
        self._used_s = 0.0  # the loop's time of the last answer
        self._num_unanswered = 0
        self._order: asyncio.Queue[_Place | None] = asyncio.Queue(limits.max_frames_in_flight)

    def _parse_open(self, data: bytes) -> types.SessionOpen:
        message = messages.parse_device_message(data)
        if not isinstance(message, types.SessionOpen):
            raise errors.ProtocolError("found a frame where the Open message belongs", field="open")
        messages.check_version(message.protocol_version)
        return message

    async def _open(self, request: types.SessionOpen) -> types.SessionOpened:
        return await self._service.open(request)

    async def _close(self, session_id: str) -> None:
        await self._service.close(session_id)

    def _last_message(self, error: errors.MillinerError) -> bytes:
        return status.write_error(error, final=True)

    async def _converse(self, request: types.SessionOpen, opened: types.SessionOpened) -> None:
        await self._write(messages.write_opened(opened))
        try:
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(self._write_answers())
                watching = group.create_task(self._end_when_idle())
                writing.add_done_callback(lambda _: watching.cancel())
                await self._read_frames(group, request, opened)
        except* server_session.StreamEnded:
            pass  # the last message and the status are written, or nobody is there to read them

    async def _read_frames(
        self, group: asyncio.TaskGroup, request: types.SessionOpen, opened: types.SessionOpened
    ) -> None:
        while isinstance(data := await self._context.read(), bytes):
            frame = None
            try:
                frame = _parse_frame(data)
                _check_frame(frame, request, opened)
            except errors.MillinerError as error:
                await self._enter(_Place(error, frame))
                if status.ends_stream(error):
                    return
                continue
            await self._enter(_Place(group.create_task(self._answer(frame)), frame))
        await self._order.put(None)

    async def _enter(self, place: _Place) -> None:
        """Puts an answer, or what will become one, in the order of answers."""
        self._num_unanswered += 1
        await self._order.put(place)

    async def _end_when_idle(self) -> None:
        """Ends the stream once nothing has happened on it for `idle_s`."""
        loop = asyncio.get_running_loop()
        self._used_s = loop.time()
        left_s = self._limits.idle_s
        while left_s > 0.0 or self._num_unanswered:
            await asyncio.sleep(max(left_s, self._limits.idle_s / _IDLE_CHECKS))
            left_s = self._used_s + self._limits.idle_s - loop.time()
        expired = f"nothing came for {self._limits.idle_s:g} s: open a session and replay"
        await self._enter(_Place(errors.UnknownSession(expired, field="session_id")))

    async def _answer(self, frame: types.HiddenFrame) -> types.HiddenReply | errors.MillinerError:
        try:
            return await self._service.forward(frame)
        except errors.MillinerError as error:
            return error
        except Exception:
            _LOGGER.exception("a frame failed (round %d, start_pos %d)", frame.round, frame.start_pos)
            return status.internal_error()

    async def _write_answers(self) -> None:
        while (place := await self._order.get()) is not None:
            answer = place.answer if isinstance(place.answer, errors.MillinerError) else await place.answer
            self._num_unanswered -= 1
            self._used_s = asyncio.get_running_loop().time()
            if isinstance(answer, types.HiddenReply):
                await self._write(messages.write_reply(answer))
            elif status.ends_stream(answer):
                await self._end(answer, status.write_error(answer, final=True, frame=place.frame))
                raise server_session.StreamEnded
            else:
                await self._write(status.write_error(answer, final=False, frame=place.frame))


def _parse_frame(data: bytes) -> types.HiddenFrame:
    frame = messages.parse_device_message(data)
    if not isinstance(frame, types.HiddenFrame):
        raise errors.ProtocolError("this stream's session is open already", field="open")
    return frame


def _check_frame(frame: types.HiddenFrame, request: types.SessionOpen, opened: types.SessionOpened) -> None:
    """What a frame must keep to on this stream, before the service sees it."""
    if frame.session_id != request.session_id:
        raise errors.ForeignSession("this stream belongs to another session", field="session_id")
    if frame.num_tokens > opened.max_frame_tokens:
        raise errors.FrameTooLarge(
            f"{frame.num_tokens} positions in one frame, at most {opened.max_frame_tokens}: send smaller chunks",
            field="payloads",
        )
    for index, payload in enumerate(frame.payloads):
        layout.check_payload(payload, request.hidden_size, field=f"payloads[{index}]")
    if frame.commit_pos > frame.start_pos:
        raise errors.PositionMismatch(
            f"commit_pos {frame.commit_pos} lies beyond start_pos {frame.start_pos}", field="commit_pos"
        )
    if frame.start_pos + frame.num_tokens > request.max_positions:
        raise errors.PositionMismatch(
            f"positions up to {frame.start_pos + frame.num_tokens} in a session opened for {request.max_positions}: "
            "open it with a larger max_positions",
            field="start_pos",
        )
