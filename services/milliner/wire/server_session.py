"""One session's stream on the cloud's side, whatever is said in it: who may open one, its last message, its end.

`server_stream` (hidden states) and `token_server` (tokens) say what comes after Open. However the stream ends, the
session is closed. Runs on the server's event loop.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from typing import Generic, Protocol, TypeVar

import grpc

from milliner.core import errors
from milliner.wire import status

_LOGGER = logging.getLogger(__name__)

OpenedT = TypeVar("OpenedT")


class Request(Protocol):
    """What every service's Open says."""

    @property
    def session_id(self) -> str: ...


RequestT = TypeVar("RequestT", bound=Request)


class StreamEnded(Exception):
    """Ends a stream's task group: its last message is written, or nobody is there to read. Stays in these modules."""


class Door:
    """Who may open a session on this server: an id that is in use nowhere else, while the server does not drain."""

    def __init__(self) -> None:
        self.draining = False
        self.sessions: set[str] = set()  # whose stream is open
        self.idle = asyncio.Event()  # set while there is no stream with a session
        self.idle.set()

    @contextlib.contextmanager
    def admit(self, session_id: str) -> Iterator[None]:
        """The time in which the session is open. Raises `UnavailableError` and `ForeignSession`."""
        if self.draining:
            raise errors.UnavailableError("this replica is shutting down: open the session on another", field="cloud")
        if session_id in self.sessions:
            raise errors.ForeignSession(
                "this session is open on another stream: open one with a new id", field="session_id"
            )
        self.sessions.add(session_id)
        self.idle.clear()
        try:
            yield
        finally:
            self.sessions.discard(session_id)
            if not self.sessions:
                self.idle.set()


class ServerSession(abc.ABC, Generic[RequestT, OpenedT]):
    """See the module; `run` returns when the stream is over.

    `open_within_s` is the deadline of Open, `taken_within_s` that of a message's way to the device.
    """

    def __init__(
        self,
        context: grpc.aio.ServicerContext[bytes, bytes],
        *,
        door: Door,
        open_within_s: float,
        taken_within_s: float,
    ) -> None:
        self._context = context
        self._door = door
        self._open_within_s = open_within_s
        self._taken_within_s = taken_within_s
        self._gone = False

    async def run(self) -> None:
        """Serves the stream until either side ends it, then closes its session."""
        with contextlib.suppress(StreamEnded):
            await self._serve()
        if self._gone:
            # what a vanished device ends otherwise too; a status could not be sent any more
            raise asyncio.CancelledError

    @abc.abstractmethod
    def _parse_open(self, data: bytes) -> RequestT:
        """The first message. Raises `ProtocolError`s."""

    @abc.abstractmethod
    async def _open(self, request: RequestT) -> OpenedT:
        """Asks the service for the session."""

    @abc.abstractmethod
    async def _converse(self, request: RequestT, opened: OpenedT) -> None:
        """All that is said from Opened on."""

    @abc.abstractmethod
    async def _close(self, session_id: str) -> None:
        """Frees everything of the session."""

    @abc.abstractmethod
    def _last_message(self, error: errors.MillinerError) -> bytes:
        """The error as the stream's last message."""

    async def _serve(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                request = await self._read_open()
                # only now: the message may come long after the stream began
                stack.enter_context(self._door.admit(request.session_id))
            except errors.MillinerError as error:
                await self._end(error)
                return
            try:
                await self._run_session(request)
            finally:
                await _to_the_end(self._close(request.session_id))

    async def _run_session(self, request: RequestT) -> None:
        try:
            opened = await self._open(request)
        except errors.MillinerError as error:
            await self._end(error)
        except Exception:
            _LOGGER.exception("opening a session failed")
            await self._end(status.internal_error())
        else:
            await self._converse(request, opened)

    async def _read_open(self) -> RequestT:
        try:
            async with asyncio.timeout(self._open_within_s):
                data = await self._context.read()
        except TimeoutError:
            raise errors.DeadlineExceeded(f"no Open message within {self._open_within_s} s", field="open") from None
        if not isinstance(data, bytes):
            raise errors.ProtocolError("the stream ended before its Open message", field="open")
        return self._parse_open(data)

    async def _write(self, data: bytes) -> None:
        """Hands a message to the device; raises `StreamEnded` when it is gone or does not read."""
        try:
            async with asyncio.timeout(self._taken_within_s):
                await self._context.write(data)
        except grpc.aio.BaseError as error:
            _LOGGER.info("the device is gone: %s", error)
            self._gone = True
            raise StreamEnded from error
        except TimeoutError:
            # no message can follow the one that is under way; the status can, should the device ever read that far
            self._set_status(errors.DeadlineExceeded(f"nothing was read for {self._taken_within_s:g} s", field="cloud"))
            raise StreamEnded from None

    async def _end(self, error: errors.MillinerError, message: bytes | None = None) -> None:
        """Writes the stream's last message and sets its status."""
        await self._write(message or self._last_message(error))
        self._set_status(error)

    def _set_status(self, error: errors.MillinerError) -> None:
        _LOGGER.info("stream ended: %s: %s", type(error).__name__, error)
        self._context.set_code(status.code_of(error))
        self._context.set_details(str(error))


async def _to_the_end(closing: Coroutine[object, object, None]) -> None:
    """Closes though the stream is cancelled meanwhile, as when a device leaves while its session ends."""
    task = asyncio.ensure_future(closing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
