"""One open cloud session seen from the device: frames out, replies in, in the order of the frames.

Implements `core.ports.CloudStream` on top of `client_session`; runs on the device's event loop.
"""

from __future__ import annotations

import asyncio

from milliner.contract.proto import hidden_states_pb2 as pb
from milliner.core import errors, types
from milliner.wire import client_session, layout, messages, options, status


def _parse(data: bytes) -> types.SessionOpened | types.HiddenReply:
    message = messages.parse_cloud_message(data)
    if isinstance(message, pb.Error):
        raise status.read_error(message)
    return message


DIALECT: client_session.Dialect[types.SessionOpened, types.HiddenReply] = client_session.Dialect(
    service=messages.SERVICE,
    method=messages.SESSION_METHOD,
    name="hidden-state protocol",
    opened=types.SessionOpened,
    parse=_parse,
)


class ClientStream(client_session.ClientSession[types.SessionOpened, types.HiddenReply]):
    """An open session; made by `open_stream`. Sends and receives are independent; one of each at a time is served."""

    def __init__(self, line: client_session.Line[types.SessionOpened], request: types.SessionOpen) -> None:
        super().__init__(line, DIALECT, traceparent=request.traceparent)
        self._request = request
        self._send_lock = asyncio.Lock()
        self.frames_in_flight = 0  # sent and not yet answered

    async def open(self, expected: types.SessionOpened | None) -> None:
        """Sends Open and waits for Opened. Raises the cloud's refusal, `DeadlineExceeded` or `UnavailableError`.

        With `expected` it does not wait: these limits hold until Opened comes, and a refusal ends the stream.
        """
        await self._open(messages.write_open(self._request), within_s=self._timeouts.open_s, expected=expected)

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
        return await self._take("a reply")

    async def _read_answers(self) -> None:
        while True:
            try:
                message = await self._read()
            except errors.MillinerError as error:
                if status.ends_stream(error):
                    raise
                self._answer(error)
                continue
            if message is None:
                raise self._over()
            if not isinstance(message, types.HiddenReply) or self.frames_in_flight == 0:
                raise errors.ProtocolError("the cloud sent a message that no frame asked for", field="reply")
            self._answer(message)

    def _answer(self, answer: types.HiddenReply | errors.MillinerError) -> None:
        self.frames_in_flight -= 1
        self._answers.put_nowait(answer)

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


async def open_stream(
    line: client_session.Line[types.SessionOpened],
    request: types.SessionOpen,
    *,
    expected: types.SessionOpened | None = None,
) -> ClientStream:
    """Opens a session; nothing is left behind when it fails. `expected`: see `ClientStream.open`."""
    stream = ClientStream(line, request)
    await stream.open(expected)
    return stream
