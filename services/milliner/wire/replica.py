"""One cloud replica as a device sees it: its connections, its open sessions, and whether it still answers.

Hidden states and heartbeats use a connection each. While sessions are open, the heartbeat is watched (`heartbeat`):
when the replica falls silent, all sessions end with it; it also tells when the replica drains. Without sessions the
device is quiet, unless somebody asks with `check`. Event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

from milliner.core import errors, types
from milliner.wire import client_stream, heartbeat, options

_LINGER_S = 10.0  # heartbeats go on after the last session, so that the next finds them (arbitrary)


class Replica:
    """The replica at `target` ("host:port"); `authority` is the name that led to it, where that is not the target.

    `on_trouble` is called when it falls silent or cannot be reached.
    """

    def __init__(
        self,
        target: str,
        *,
        authority: str,
        timeouts: client_stream.Timeouts,
        pings: options.Keepalive,
        credentials: grpc.ChannelCredentials | None,
        on_trouble: Callable[[], None],
    ) -> None:
        self.target = target
        self.failures = 0  # opens refused or failed in a row
        self._authority = authority
        self._timeouts = timeouts
        self._credentials = credentials
        self._on_trouble = on_trouble
        self._streams: set[client_stream.ClientStream] = set()
        self._num_opening = 0
        self._last_opened: types.SessionOpened | None = None  # what it said to the session before
        self._watch: asyncio.Task[None] | None = None
        self._farewell: asyncio.TimerHandle | None = None
        self._channel = self._connect(options.DATA, connect_s=self._timeouts.connect_s)
        # a replica that takes the connection and says nothing is silent too
        silent_s = pings.interval_s + pings.timeout_s
        self._heartbeat = heartbeat.Heartbeat(target, lambda: self._connect(pings, connect_s=silent_s))

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
    def shunned(self) -> bool:
        """Whether others are to be preferred."""
        return self.failures > 0 or not self._heartbeat.serving

    async def open(self, request: types.SessionOpen, *, eager: bool) -> client_stream.ClientStream:
        """Opens a session here. Raises the replica's refusal or `UnavailableError`.

        With `eager` it does not wait for the answer of a replica that admitted the last session.
        """
        self._num_opening += 1
        try:
            stream = await client_stream.open_stream(
                self._channel,
                request,
                endpoint=self.target,
                timeouts=self._timeouts,
                expected=self._last_opened if eager and not self.shunned else None,
            )
        except errors.MillinerError as error:
            self.failures += 1
            if isinstance(error, errors.UnavailableError):
                self._on_trouble()
                if not self._streams and self._num_opening == 1:
                    await self._reconnect()  # the next try shall not wait for this channel's back-off
            raise
        finally:
            self._num_opening -= 1
        self.failures = 0
        self._last_opened = stream.opened
        self._streams.add(stream)
        stream.on_close(self._forget)
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_health(), name=f"heartbeat of {self.target}")
        return stream

    async def check(self) -> str:
        """Why it cannot serve now, or "" when it can. One that can is no longer shunned for what it did before.

        The deadline is as patient as an opening's: silence shows sooner, by pings that no busy event loop delays.
        """
        trouble = await self._heartbeat.check(within_s=self._timeouts.open_s)
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
        await self._channel.close(None)

    def _forget(self, stream: client_stream.ClientStream) -> None:
        self._streams.discard(stream)
        if not self._streams and self._watch is not None:
            self._farewell = asyncio.get_running_loop().call_later(_LINGER_S, self._watch.cancel)

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

    async def _reconnect(self) -> None:
        old, self._channel = self._channel, self._connect(options.DATA, connect_s=self._timeouts.connect_s)
        await old.close(None)

    def _connect(self, keepalive: options.Keepalive, *, connect_s: float) -> grpc.aio.Channel:
        chosen = options.client_options(keepalive, connect_s=connect_s, authority=self._authority)
        if self._credentials is None:
            return grpc.aio.insecure_channel(self.target, options=chosen)
        return grpc.aio.secure_channel(self.target, self._credentials, options=chosen)
