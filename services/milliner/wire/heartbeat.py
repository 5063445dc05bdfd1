"""Whether one cloud replica still answers: `grpc.health.v1` on a connection that carries nothing else.

A ping's answer waits behind all data in the sockets, so health never shares a connection with sessions. `watch`
stands while the device has sessions there: C-core pings the replica (`options.HEARTBEAT`) and the watch ends when it
falls silent. `check` asks once, for a device that has no session there. `replica` calls both; event loop only.

A watch that ends with UNAVAILABLE means that the replica is gone. With UNIMPLEMENTED, or where health is refused to
this device, nothing can be watched, and a lost replica shows by its sessions' deadlines only. Any other end says
nothing about the replica and is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from milliner.core import tasks

_FIRST_DELAY_S = 0.5  # arbitrary
_LAST_DELAY_S = 8.0  # arbitrary
_SERVING = health_pb2.HealthCheckResponse.SERVING
# The replica answered, and trying again would change nothing.
_NO_HEALTH = {
    grpc.StatusCode.UNIMPLEMENTED: "it has no health service",
    grpc.StatusCode.UNAUTHENTICATED: "it does not know this device",
    grpc.StatusCode.PERMISSION_DENIED: "it keeps its health from this device",
}

# A closed port; the second and third where a proxy (or an emulated link) stands before it.
_NOBODY = ("Connection refused", "Connection reset", "Socket closed")

_GIVEN_UP = "the connection was given up"  # by this process; grpc.aio then says CancelledError or UsageError

_log = logging.getLogger(__name__)


class Heartbeat:
    """The health connection to `target`; `connect` makes a new channel, which connects when it is used.

    `service` is the one whose health is asked for; "": the server as a whole.

    `serving` is what the replica said last: false while it drains. One that was lost has said nothing yet.
    """

    def __init__(self, target: str, connect: Callable[[], grpc.aio.Channel], *, service: str) -> None:
        self.serving = True
        self._request = health_pb2.HealthCheckRequest(service=service)
        self._target = target
        self._connect = connect
        self._channel: grpc.aio.Channel | None = None
        self._heard = False  # the watch stands and has been answered

    @property
    def answers(self) -> bool:
        """Whether the watch stands: the replica answers, or has been silent for no longer than a ping may take."""
        return self._heard

    async def check(self, *, within_s: float) -> str:
        """Why the replica cannot serve, or "" when it can.

        Asks on a new connection before it calls a replica silent: the old one may have been lost with a network.
        """
        if self._heard:
            return self._verdict()  # the watch tells of each change and would have ended
        reused = self._channel is not None
        trouble = await self._check_once(within_s)
        if trouble and reused and self._channel is None:
            trouble = await self._check_once(within_s)
        return trouble

    async def watch(self) -> str:
        """Follows `serving` until the replica is lost; returns why, or "" when there is nothing to watch."""
        delay_s = _FIRST_DELAY_S
        while True:
            ended = "the health watch was ended"
            try:
                stream = health_pb2_grpc.HealthStub(self._open()).Watch(self._request)
                while isinstance(health := await stream.read(), health_pb2.HealthCheckResponse):
                    self._heard = True
                    delay_s = _FIRST_DELAY_S
                    self.serving = health.status == _SERVING
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    await self.close()
                    return error.details() or "unavailable"
                if error.code() in _NO_HEALTH:
                    _log.warning("%s cannot be watched: %s", self._target, _NO_HEALTH[error.code()])
                    return ""
                ended = f"{error.code().name}: {error.details()}"
            except (grpc.aio.UsageError, asyncio.CancelledError):
                if tasks.being_cancelled():
                    raise
                ended = _GIVEN_UP
            finally:
                self._heard = False
            _log.warning("%s: %s; watching again in %g s", self._target, ended, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LAST_DELAY_S)

    async def close(self) -> None:
        """Ends the connection; the next use makes another."""
        self.serving = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def _check_once(self, within_s: float) -> str:
        try:
            health = await health_pb2_grpc.HealthStub(self._open()).Check(self._request, timeout=within_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in _NO_HEALTH:
                return ""
            await self.close()
            return self._words(error.details() or error.code().name)
        except (grpc.aio.UsageError, asyncio.CancelledError):
            if tasks.being_cancelled():
                raise
            return f"{self._target}: {_GIVEN_UP}"
        self.serving = health.status == _SERVING
        return self._verdict()

    def _words(self, details: str) -> str:
        """What C-core says of a call that failed; in words of our own where nobody is there, as at each start."""
        for sign in _NOBODY:
            if sign in details:
                _log.debug("%s: %s", self._target, details)
                return f"the cloud on {self._target} does not answer ({sign.lower()})"
        return f"{self._target}: {details}"

    def _verdict(self) -> str:
        return "" if self.serving else f"{self._target} is not serving: it drains or has not started"

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = self._connect()
        return self._channel
