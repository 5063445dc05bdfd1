"""A TCP forwarder that behaves like a device's access link: bandwidth each way, round trip, jitter, loss as delay.

Point a client at `.port` instead of the server. All connections share the link's two directions (`link_schedule`).
Reading is in small packets and stops while more than `_QUEUE_S` of data waits, so that a slow link is smooth and its
back-pressure reaches the sender; beyond that queue the sender's own socket buffer holds data, as on a real device.
Faults while it runs: `cut` (silence, both ways), `mend`, `drop_connections` (resets).

Works with timers and protocol callbacks on the running event loop; deadlines are absolute, so lateness of the loop
does not add up. A loop that is also busy with other work delivers late: `max_lateness_s` says how late.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import random
import socket
import struct
from collections.abc import Callable
from typing import cast

from milliner.wire import link_schedule

LinkConditions = link_schedule.LinkConditions

_QUEUE_S = 0.05  # data that may wait in front of the bottleneck (arbitrary; home routers hold more)
_PACKET_S = 0.002  # a packet's share of the bottleneck's time (arbitrary), within the two limits below
_MIN_PACKET_BYTES = 1500  # Ethernet's
_MAX_PACKET_BYTES = 16384
_RECEIVE_BUFFER_BYTES = 65536  # of accepted sockets: what the kernel takes beyond our queue
# Event loops wait in whole milliseconds, rounded up (epoll). Timers are set early by what keeps the median of lateness
# at zero; it is learnt in these steps, up to the limit (arbitrary: small beside a round trip, quick to settle).
_EARLY_STEP_S = 20e-6
_MAX_EARLY_S = 0.002
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for zero seconds


class _Ending(enum.Enum):
    """What may follow a connection's last byte; it travels as the data does."""

    HALF_CLOSED = enum.auto()  # no more from that side
    CLOSED = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class _Packet:
    arrival_s: float
    sink: _End
    content: bytes | _Ending


class _Path:
    """One direction of the link: packets of all connections on their way, in order, each delivered at its time."""

    def __init__(self, conditions: LinkConditions, *, bytes_per_s: float, seed: str) -> None:
        self._schedule = link_schedule.Direction(
            conditions, bytes_per_s=bytes_per_s, generator=random.Random(f"{conditions.seed} {seed}")
        )
        self.packet_bytes = round(min(max(bytes_per_s * _PACKET_S, _MIN_PACKET_BYTES), _MAX_PACKET_BYTES))
        self._limit_bytes = bytes_per_s * (_QUEUE_S + conditions.round_trip_s / 2) + self.packet_bytes
        self.sources: set[_End] = set()
        self.num_bytes = 0
        self.max_lateness_s = 0.0
        self._early_s = 0.0005
        self._loop = asyncio.get_running_loop()
        self._packets: collections.deque[_Packet] = collections.deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._cut = False

    @property
    def takes_more(self) -> bool:
        """Whether the connections may be read."""
        return not self._cut and self._waiting_bytes < self._limit_bytes

    def put(self, sink: _End, content: bytes | _Ending) -> None:
        """A packet enters on its way to `sink`."""
        num_bytes = 0 if isinstance(content, _Ending) else len(content)
        self._packets.append(_Packet(self._schedule.admit(self._loop.time(), num_bytes), sink, content))
        self._waiting_bytes += num_bytes
        self.num_bytes += num_bytes
        self._arm()

    def set_cut(self, cut: bool) -> None:
        """Holds all packets, or lets them go on: the overdue ones at once, as retransmissions would arrive."""
        self._cut = cut
        if cut:
            self.stop()
        else:
            self._arm()
        self._regulate()

    def stop(self) -> None:
        """Delivers nothing more until the next packet enters."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._packets and not self._cut:
            self._timer = self._loop.call_at(self._packets[0].arrival_s - self._early_s, self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        step_s = _EARLY_STEP_S if now_s > self._packets[0].arrival_s else -_EARLY_STEP_S
        while self._packets and self._packets[0].arrival_s - self._early_s <= now_s:
            packet = self._packets.popleft()
            if not isinstance(packet.content, _Ending):
                self._waiting_bytes -= len(packet.content)
            self.max_lateness_s = max(self.max_lateness_s, now_s - packet.arrival_s)
            packet.sink.deliver(packet.content)
        self._early_s = min(max(self._early_s + step_s, 0.0), _MAX_EARLY_S)
        self._arm()
        self._regulate()

    def _regulate(self) -> None:
        for source in self.sources:
            source.regulate()


class _End(asyncio.BufferedProtocol):
    """One socket of a forwarded connection: what it reads enters `path` towards `twin`; what arrives it writes."""

    def __init__(self, path: _Path, on_connected: Callable[[_End], None] | None = None) -> None:
        self.twin: _End | None = None
        self._path = path
        self._on_connected = on_connected
        self._buffer = bytearray(path.packet_bytes)
        self._transport: asyncio.Transport | None = None
        self._twin_blocked = False  # the twin's socket does not take what arrives for it
        self._reading = True

    def join(self, twin: _End) -> None:
        """Starts forwarding between the two."""
        self.twin, twin.twin = twin, self
        self.regulate()
        twin.regulate()

    def deliver(self, content: bytes | _Ending) -> None:
        """Writes what came over the link; nothing happens when this side is gone."""
        if self._transport is None or self._transport.is_closing():
            return
        match content:
            case bytes():
                self._transport.write(content)
            case _Ending.HALF_CLOSED:
                try:
                    self._transport.write_eof()
                except OSError:  # that side was reset while the packet was on its way
                    self._transport.abort()
            case _Ending.CLOSED:
                self._transport.close()

    def regulate(self) -> None:
        """Reads or pauses, as the path, the twin and the link's state ask."""
        if self._transport is None or self._transport.is_closing():
            return
        wanted = self.twin is not None and not self._twin_blocked and self._path.takes_more
        if wanted and not self._reading:
            self._transport.resume_reading()
        elif self._reading and not wanted:
            self._transport.pause_reading()
        self._reading = wanted

    @property
    def gone(self) -> bool:
        """Whether this side's connection has ended (or never stood)."""
        return self._transport is None or self._transport.is_closing()

    def abort(self) -> None:
        """Resets the connection at once."""
        if self._transport is not None:
            # without this option the kernel says goodbye (FIN) instead of resetting (RST)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # asyncio sets it only on sockets made with an explicit protocol number; without it the kernel holds a message's
        # last packet back until the one before is acknowledged, up to 40 ms
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._path.sources.add(self)
        self.regulate()
        if self._on_connected is not None:
            self._on_connected(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._send(bytes(memoryview(self._buffer)[:nbytes]))
        self.regulate()

    def eof_received(self) -> bool:
        self._send(_Ending.HALF_CLOSED)
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._path.sources.discard(self)
        self._transport = None
        if self.twin is not None:
            self._send(_Ending.CLOSED)

    def pause_writing(self) -> None:
        self._block_twin(True)

    def resume_writing(self) -> None:
        self._block_twin(False)

    def _send(self, content: bytes | _Ending) -> None:
        assert self.twin is not None  # before `join` nothing is read
        self._path.put(self.twin, content)

    def _block_twin(self, blocked: bool) -> None:
        if self.twin is not None:
            self.twin._twin_blocked = blocked
            self.twin.regulate()


class EmulatedLink:
    """The link; `async with` starts and stops it. Clients connect to `host`:`port`."""

    def __init__(
        self,
        upstream_host: str,
        upstream_port: int,
        conditions: LinkConditions,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._conditions = conditions
        self._listen = (host, port)
        self._connects: set[asyncio.Task[None]] = set()
        self._mended = asyncio.Event()
        self._mended.set()
        self.port = 0

    @property
    def bytes_up(self) -> int:
        """Bytes that entered the link towards the server, TCP's payload."""
        return self._up.num_bytes

    @property
    def bytes_down(self) -> int:
        """Bytes that entered the link towards the clients."""
        return self._down.num_bytes

    @property
    def max_lateness_s(self) -> float:
        """The most that a packet was delivered after its time."""
        return max(self._up.max_lateness_s, self._down.max_lateness_s)

    async def start(self) -> None:
        """Listens. Raises `OSError` when the port is taken."""
        conditions = self._conditions
        self._up = _Path(conditions, bytes_per_s=conditions.uplink_bytes_per_s, seed="up")
        self._down = _Path(conditions, bytes_per_s=conditions.downlink_bytes_per_s, seed="down")
        listening = socket.create_server(self._listen)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)  # inherited by accepted ones
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self._up, self._accepted), sock=listening)

    async def stop(self) -> None:
        """Resets all connections and stops listening."""
        self._server.close()
        for connect in self._connects:
            connect.cancel()
        await asyncio.gather(*self._connects, return_exceptions=True)
        self.drop_connections()
        self._up.stop()
        self._down.stop()
        await asyncio.sleep(0)  # aborted transports report their end in the next turn of the loop
        await self._server.wait_closed()
        self._up.stop()
        self._down.stop()

    def cut(self) -> None:
        """Silence: nothing comes through any more, in either direction, and nobody is told."""
        self._mended.clear()
        self._up.set_cut(True)
        self._down.set_cut(True)

    def mend(self) -> None:
        """Ends a `cut`: what waited goes on its way."""
        self._mended.set()
        self._up.set_cut(False)
        self._down.set_cut(False)

    def drop_connections(self) -> None:
        """Resets every connection on both sides, at once; new ones are taken."""
        for end in [*self._up.sources, *self._down.sources]:
            end.abort()

    async def __aenter__(self) -> EmulatedLink:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _accepted(self, client: _End) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    async def _connect(self, client: _End) -> None:
        """Connects a client to the server; its first byte waits for the handshake's round trip."""
        await asyncio.sleep(self._conditions.round_trip_s)
        await self._mended.wait()
        try:
            _, upstream = await asyncio.get_running_loop().create_connection(lambda: _End(self._down), *self._upstream)
        except OSError:
            client.abort()  # connection refused, as the client would have seen it
            return
        client.join(upstream)
        if client.gone:
            upstream.abort()
