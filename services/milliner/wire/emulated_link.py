"""A TCP forwarder that behaves like a device's access link: bandwidth each way, round trip, jitter, loss as delay.

Point a client at `.port` instead of the server. All connections share the link's two directions (`link_path`), which
follow a schedule (`link_schedule`). Reading is in small packets and stops while more than a short queue of data waits,
so that a slow link is smooth and its back-pressure reaches the sender; beyond that queue the sender's own socket buffer
holds data, as on a real device. Faults while it runs: `cut` (silence, both ways), `mend`, `drop_connections` (resets).
"""

from __future__ import annotations

import asyncio
import socket

from milliner.wire import link_end, link_path, link_schedule

LinkConditions = link_schedule.LinkConditions

_RECEIVE_BUFFER_BYTES = 65536  # of accepted sockets: what the kernel takes beyond our queue


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
        self._up = link_path.Path(conditions, bytes_per_s=conditions.uplink_bytes_per_s, seed="up")
        self._down = link_path.Path(conditions, bytes_per_s=conditions.downlink_bytes_per_s, seed="down")
        listening = socket.create_server(self._listen)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)  # inherited by accepted ones
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: link_end.End(self._up, self._accepted), sock=listening)

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

    def _accepted(self, client: link_end.End) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(client))
        self._connects.add(task)
        task.add_done_callback(self._connects.discard)

    async def _connect(self, client: link_end.End) -> None:
        """Connects a client to the server; its first byte waits for the handshake's round trip."""
        await asyncio.sleep(self._conditions.round_trip_s)
        await self._mended.wait()
        try:
            _, upstream = await asyncio.get_running_loop().create_connection(
                lambda: link_end.End(self._down), *self._upstream
            )
        except OSError:
            client.abort()  # connection refused, as the client would have seen it
            return
        client.join(upstream)
        if client.gone:
            upstream.abort()
        elif upstream.gone:  # reset before the two were joined, when there was nobody to tell
            client.abort()
