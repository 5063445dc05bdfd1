"""HTTP connections with bounds: a deadline for whatever a client has begun to send, and a limit on their number.

The application has its own deadlines for bodies and answers; what it never sees, half-sent headers and the rest of a
body that nobody will read, ends here. Where there are too many connections, the one that has been without a request for
longest makes room; where all have one, the new one is refused. Used by the server of the roles; event loop only.
"""

from __future__ import annotations

import asyncio
import json
import math

import h11
from uvicorn.protocols.http import h11_impl

from milliner.api import errors

# Both arbitrary. A header is one packet, as a rule; a device serves a person or a few, whose pools hold some dozens.
RECEIVE_S = 10.0
MAX_CONNECTIONS = 256

_LATE = errors.HttpError(408, "request_timeout", f"the request's headers did not arrive within {RECEIVE_S:g} s")
_CROWDED = errors.HttpError(503, "too_many_connections", f"all {MAX_CONNECTIONS} connections are in use")


class BoundedProtocol(h11_impl.H11Protocol):
    """uvicorn's HTTP/1.1 with the bounds of the module."""

    _deadline: asyncio.TimerHandle | None = None
    _waiting_since_s: float = math.inf  # for a request's headers; infinite while there is a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._disarm()  # idle from now on, which has a limit of its own
        if self.conn.their_state is h11.IDLE:
            self._waiting_since_s = self.loop.time()

    def _watch(self) -> None:
        """Sets the deadline where the client has something to send that no endpoint waits for."""
        headers = self.conn.their_state is h11.IDLE
        unread = self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY
        if not headers and not unread:
            self._waiting_since_s = math.inf
            self._disarm()
        elif self._deadline is None:
            self._waiting_since_s = min(self._waiting_since_s, self.loop.time())
            self._deadline = self.loop.call_later(RECEIVE_S, self._too_late)

    def _too_late(self) -> None:
        self._deadline = None
        half_sent = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        self._end(_LATE if half_sent else None)

    def _make_room(self) -> None:
        others = (each for each in self.connections if each is not self and isinstance(each, BoundedProtocol))
        oldest = min(others, key=lambda each: each._waiting_since_s)
        if math.isfinite(oldest._waiting_since_s):
            oldest._end(None)
        else:
            self._end(_CROWDED)

    def _end(self, refusal: errors.HttpError | None) -> None:
        """Closes the connection, with a response where there is something to say."""
        self._disarm()
        self._unset_keepalive_if_required()
        self.connections.discard(self)
        if refusal is not None and not self.transport.is_closing():
            body = json.dumps(errors.body_of(refusal)).encode()
            head = [(b"Content-Type", b"application/json"), (b"Connection", b"close")]
            length = (b"Content-Length", str(len(body)).encode())
            status = refusal.face.status
            for event in (
                h11.Response(status_code=status, headers=[*head, length], reason=h11_impl.STATUS_PHRASES[status]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
