"""The device's end of the wire: opens cloud sessions over gRPC and chooses the replica.

`GrpcTransport` implements `core.ports.CloudTransport`; `client_stream` holds one open session. Called by strategies
on the device's event loop; calls no torch. Opening goes from endpoint to endpoint until one accepts: a dead, full or
draining replica costs `connect_s` at most, never the request.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence

import grpc

from milliner.core import errors, types
from milliner.wire import client_stream, options


class _Endpoint:
    """One address with its channel, and what is known of it."""

    def __init__(self, target: str, channel: grpc.aio.Channel) -> None:
        self.target = target
        self.channel = channel
        self.open_streams = 0
        self.failures = 0  # opens refused or failed in a row


class GrpcTransport:
    """Opens sessions on the first of `endpoints` ("host:port") that accepts. Needs a running event loop.

    A new session prefers replicas that did not fail last time, then those with fewest sessions of this device, then
    takes turns.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeouts: client_stream.Timeouts = client_stream.DEFAULT_TIMEOUTS,
        keepalive: options.Keepalive = options.DEVICE_KEEPALIVE,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        if not endpoints:
            raise errors.ConfigError("at least one endpoint is needed, as host:port", field="endpoints")
        self._timeouts = timeouts
        channel_options = options.client_options(keepalive)
        self._endpoints = [
            _Endpoint(target, _channel(target, channel_options=channel_options, credentials=credentials))
            for target in endpoints
        ]
        self._turn = 0

    async def open(self, request: types.SessionOpen) -> client_stream.ClientStream:
        """An open session. Raises what the replicas said: the most telling error where all refused.

        `ProtocolError`s of the request itself (version, digest, shape) come back typed, `CapacityError` when all are
        full, `UnavailableError` when none answers.
        """
        refusals: list[errors.MillinerError] = []
        for endpoint in self._in_order():
            try:
                stream = await client_stream.open_stream(
                    endpoint.channel, request, endpoint=endpoint.target, timeouts=self._timeouts
                )
            except errors.MillinerError as error:
                endpoint.failures += 1
                refusals.append(error)
                continue
            endpoint.failures = 0
            endpoint.open_streams += 1
            stream.on_close(functools.partial(_closed, endpoint))
            return stream
        raise min(refusals, key=_how_telling)

    async def wait_ready(self, timeout_s: float) -> None:
        """Until a connection to one of the endpoints stands. Raises `DeadlineExceeded` after `timeout_s`."""
        waits = [asyncio.ensure_future(endpoint.channel.channel_ready()) for endpoint in self._endpoints]
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if not done:
            targets = ", ".join(endpoint.target for endpoint in self._endpoints)
            raise errors.DeadlineExceeded(f"no connection to {targets} within {timeout_s} s", field="cloud")

    async def close(self) -> None:
        """Closes all connections; open streams end."""
        await asyncio.gather(*(endpoint.channel.close(None) for endpoint in self._endpoints))

    async def __aenter__(self) -> GrpcTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _in_order(self) -> list[_Endpoint]:
        count = len(self._endpoints)
        turn, self._turn = self._turn, (self._turn + 1) % count
        rotated = self._endpoints[turn:] + self._endpoints[:turn]
        return sorted(rotated, key=lambda endpoint: (endpoint.failures > 0, endpoint.open_streams))


def _channel(
    target: str, *, channel_options: options.ChannelOptions, credentials: grpc.ChannelCredentials | None
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=channel_options)
    return grpc.aio.secure_channel(target, credentials, options=channel_options)


def _closed(endpoint: _Endpoint) -> None:
    endpoint.open_streams -= 1


def _how_telling(error: errors.MillinerError) -> int:
    """Of several refusals the one to report: what the request must change, then what waiting cures, then silence."""
    match error:
        case errors.UnavailableError():
            return 2
        case errors.CapacityError():
            return 1
    return 0
