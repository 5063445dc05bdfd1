"""One cloud replica as a device sees it: its connections, its open sessions, and whether it still answers.

Sessions and heartbeats use a connection each. While sessions are open, the heartbeat is watched (`heartbeat`):
when the replica falls silent, all sessions end with it; it also tells when the replica drains. Without sessions the
device is quiet, unless somebody asks with `check`. New certificates are used by new connections: sessions that are
open keep theirs, which goes with the last of them. Event loop only.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc

from milliner.core import errors
from milliner.wire import client_session, heartbeat, options, tls
from milliner.wire.patience import Patience

OpenedT = TypeVar("OpenedT", bound=client_session.Opened)
StreamT = TypeVar("StreamT", bound=client_session.ClientSession[Any, Any])

_LINGER_S = 10.0  # heartbeats go on after the last session, so that the next finds them (arbitrary)


class Replica(Generic[OpenedT, StreamT]):
    """The replica at `target` ("host:port"); `authority` is the name that led to it, where that is not the target.

    `service` is the one whose health counts; `StreamT` are its sessions, which it answers with `OpenedT`.

    `dial` is the address to connect to, where that is another one (an emulated link).
    `on_trouble` is called when it falls silent or cannot be reached. `patience` is told of each new connection.
    """

    def __init__(
        self,
        target: str,
        *,
        dial: str,
        authority: str,
        service: str,
        timeouts: client_session.Timeouts,
        pings: options.Keepalive,
        identity: tls.Identity | None,
        patience: Patience,
        on_trouble: Callable[[], None],
    ) -> None:
        self.target = target
        self.failures = 0  # opens refused or failed in a row
        self.was_late = False  # whether the last attempt ended because connecting took too long
        self._authority = authority
        self._timeouts = timeouts
        self._dial = dial
        self._identity = identity
        self._on_trouble = on_trouble
        self._streams: dict[StreamT, grpc.aio.Channel] = {}
        self._num_opening = 0
        self._last_opened: OpenedT | None = None  # what it said to the session before
        self._watch: asyncio.Task[None] | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._retired: list[grpc.aio.Channel] = []  # made with older certificates, still in use
        self._channel_version = identity.version if identity is not None else 0
        self._patience = patience
        self._pings = pings
        # a replica that takes the connection and says nothing is silent too
        self._silent_s = pings.interval_s + pings.timeout_s
        self._pings_scale = 0.0  # with which the heartbeat's connection was made
        self._channel_scale = patience.scale  # with which the sessions' connection was made
        self._channel = self._connect(options.DATA, connect_s=patience.connect_s)
        self._heartbeat = heartbeat.Heartbeat(target, self._connect_heartbeat, service=service)

    @property
    def max_positions(self) -> int:
        """Most positions of a session here, as it said when one was opened; 0: unknown."""
        return self._last_opened.max_positions if self._last_opened is not None else 0

    @property
    def num_streams(self) -> int:
        """Open sessions of this device."""
        return len(self._streams)

    @property
    def idle(self) -> bool:
        """Whether nobody uses it or is about to."""
        return not self._streams and self._num_opening == 0

    @property
    def is_connected(self) -> bool:
        """Whether a connection for sessions stands."""
        return _stands(self._channel)

    @property
    def shunned(self) -> bool:
        """Whether others are to be preferred."""
        return self.failures > 0 or not self._heartbeat.serving

    async def open(self, opening: Callable[[client_session.Line[OpenedT]], Awaitable[StreamT]]) -> StreamT:
        """Opens a session here by what `opening` says on the line. Raises its refusal or `UnavailableError`."""
        self._num_opening += 1
        loop, self.was_late = asyncio.get_running_loop(), False
        channel, started_s = self._channel, loop.time()
        try:
            channel, started_s = await self._current_channel(), loop.time()
            stood = _stands(channel)
            stream = await opening(
                client_session.Line(
                    channel,
                    endpoint=self.target,
                    timeouts=dataclasses.replace(self._timeouts, connect_s=self._patience.connect_s),
                    on_connected=None if stood else lambda: self._patience.connected(loop.time() - started_s),
                    alive=lambda: self._heartbeat.answers,
                    before=None if self.shunned else self._last_opened,
                )
            )
        except errors.MillinerError as error:
            self.failures += 1
            if isinstance(error, errors.UnavailableError):
                waited_s = loop.time() - started_s
                self.was_late = not _stands(channel) and self._patience.is_late(
                    waited_s, usual_s=self._timeouts.connect_s
                )
                self._on_trouble()
                if not self._streams and self._num_opening == 1:
                    await self._reconnect()  # the next try shall not wait for this channel's back-off
            raise
        finally:
            self._num_opening -= 1
        self.failures = 0
        self._last_opened = stream.opened
        self._streams[stream] = channel
        stream.on_close(self._forget)
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        if not self._heartbeat.answers and self._pings_scale != self._patience.scale:
            await self._heartbeat.close()  # made when less was known of the link
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_health(), name=f"heartbeat of {self.target}")
        return stream

    async def check(self) -> str:
        """Why it cannot serve now, or "" when it can. One that can is no longer shunned for what it did before.

        The deadline is as patient as an opening's: silence shows sooner, by pings that no busy event loop delays.
        """
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        within_s = max(self._timeouts.open_s, 2 * self._silent_s * self._patience.scale)
        trouble = await self._heartbeat.check(within_s=within_s)
        self.was_late = bool(trouble) and self._patience.is_late(loop.time() - started_s, usual_s=self._silent_s)
        if trouble:
            self.failures = max(1, self.failures)
        else:
            self.failures = 0
        return trouble

    async def ready(self) -> None:
        """Until the connection stands."""
        await self._channel.channel_ready()

    async def close(self) -> None:
        """Ends sessions and connections."""
        for stream in list(self._streams):
            await stream.close()
        if self._farewell is not None:
            self._farewell.cancel()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._heartbeat.close()
        await asyncio.gather(*(channel.close(None) for channel in (self._channel, *self._retired)))
        self._retired.clear()

    def _forget(self, stream: StreamT) -> None:
        self._streams.pop(stream, None)
        if not self._streams and self._watch is not None:
            self._farewell = asyncio.get_running_loop().call_later(_LINGER_S, self._stop_watching)

    def _stop_watching(self) -> None:
        """Forgets the watch as it ends it: an opening that completes in this very turn of the loop starts another."""
        self._farewell = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _watch_health(self) -> None:
        """Ends all sessions and drops the connection, which may still look alive, when the replica is lost."""
        reason = await self._heartbeat.watch()
        if not reason:
            return
        self.failures += 1
        for stream in list(self._streams):
            stream.fail(errors.UnavailableError(f"{self.target} does not answer any more: {reason}", field="cloud"))
        self._on_trouble()
        await self._reconnect()

    async def _current_channel(self) -> grpc.aio.Channel:
        """The channel for a new session, made with the certificates of now."""
        unused = [channel for channel in self._retired if channel not in self._streams.values()]
        self._retired = [channel for channel in self._retired if channel not in unused]
        if self._identity is not None:
            self._identity.refresh()
            if self._identity.version != self._channel_version:
                self._retired.append(self._channel)
                self._renew_channel()
        if self._channel_scale < self._patience.scale and not _stands(self._channel):
            self._retired.append(self._channel)
            self._renew_channel()
        channel = self._channel
        await asyncio.gather(*(old.close(None) for old in unused))
        return channel

    async def _reconnect(self) -> None:
        old = self._channel
        self._renew_channel()
        await old.close(None)

    def _renew_channel(self) -> None:
        if self._identity is not None:
            self._channel_version = self._identity.version
        self._channel_scale = self._patience.scale
        self._channel = self._connect(options.DATA, connect_s=self._patience.connect_s)

    def _connect_heartbeat(self) -> grpc.aio.Channel:
        self._pings_scale = self._patience.scale
        return self._connect(self._patience.pings(self._pings), connect_s=self._silent_s * self._pings_scale)

    def _connect(self, keepalive: options.Keepalive, *, connect_s: float) -> grpc.aio.Channel:
        chosen = options.client_options(keepalive, connect_s=connect_s, authority=self._authority)
        if self._identity is None:
            return grpc.aio.insecure_channel(self._dial, options=chosen)
        self._identity.refresh()
        return grpc.aio.secure_channel(self._dial, self._identity.channel_credentials(), options=chosen)


def _stands(channel: grpc.aio.Channel) -> bool:
    return channel.get_state() is grpc.ChannelConnectivity.READY
