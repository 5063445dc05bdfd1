"""One socket of a connection that the emulated link forwards: reads into its path, writes what arrives.

It reads in small packets and pauses while the path is full or its twin's socket does not take what arrives, so that
back-pressure reaches the sender. Callbacks of the running event loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from milliner.wire import link_path

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for zero seconds


class End(asyncio.BufferedProtocol):
    """One socket of a forwarded connection: what it reads enters `path` towards `twin`; what arrives it writes."""

    def __init__(self, path: link_path.Path, on_connected: Callable[[End], None] | None = None) -> None:
        self.twin: End | None = None
        self._path = path
        self._on_connected = on_connected
        self._buffer = bytearray(path.packet_bytes)
        self._transport: asyncio.Transport | None = None
        self._twin_blocked = False  # the twin's socket does not take what arrives for it
        self._reading = True

    def join(self, twin: End) -> None:
        """Starts forwarding between the two."""
        self.twin, twin.twin = twin, self
        self.regulate()
        twin.regulate()

    def deliver(self, content: bytes | link_path.Ending) -> None:
        """Writes what came over the link; nothing happens when this side is gone."""
        if self._transport is None or self._transport.is_closing():
            return
        match content:
            case bytes():
                self._transport.write(content)
            case link_path.Ending.HALF_CLOSED:
                try:
                    self._transport.write_eof()
                except OSError:  # that side was reset while the packet was on its way
                    self._transport.abort()
            case link_path.Ending.CLOSED:
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
        # not at once: asyncio of Python 3.11.2 begins to read after this returns, even where it has paused reading
        asyncio.get_running_loop().call_soon(self.regulate)
        if self._on_connected is not None:
            self._on_connected(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._send(bytes(memoryview(self._buffer)[:nbytes]))
        self.regulate()

    def eof_received(self) -> bool:
        self._send(link_path.Ending.HALF_CLOSED)
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._path.sources.discard(self)
        self._transport = None
        if self.twin is not None:
            self._send(link_path.Ending.CLOSED)

    def pause_writing(self) -> None:
        self._block_twin(True)

    def resume_writing(self) -> None:
        self._block_twin(False)

    def _send(self, content: bytes | link_path.Ending) -> None:
        assert self.twin is not None  # before `join` nothing is read
        self._path.put(self.twin, content)

    def _block_twin(self, blocked: bool) -> None:
        if self.twin is not None:
            self.twin._twin_blocked = blocked
            self.twin.regulate()
