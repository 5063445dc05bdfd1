"""The device's end of the wire: opens cloud sessions over gRPC and chooses the replica.

`GrpcTransport` implements `core.ports.CloudTransport`; `replica` knows one replica, `client_stream` one open session.
Called by strategies on the device's event loop; calls no torch. Opening goes from replica to replica until one
accepts: a dead, full or draining one costs `connect_s` at most, never the request. Names are looked up again for every
session, and each address behind a name is a replica of its own (a headless Service has one for each pod).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import grpc

from milliner.core import errors, types
from milliner.wire import client_stream, options, replica


class GrpcTransport:
    """Opens sessions on a replica behind one of `endpoints` ("host:port"). Needs a running event loop.

    A new session prefers replicas that neither failed last time nor drain, then those with fewest sessions of this
    device, then takes turns. `on_trouble` is called at once when a replica falls silent or does not answer an opening.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeouts: client_stream.Timeouts = client_stream.DEFAULT_TIMEOUTS,
        heartbeat: options.Keepalive = options.HEARTBEAT,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.on_trouble: Callable[[], None] = lambda: None
        if not endpoints:
            raise errors.ConfigError("at least one endpoint is needed, as host:port", field="endpoints")
        self._endpoints = [_split(endpoint) for endpoint in endpoints]
        self._timeouts = timeouts
        self._heartbeat = heartbeat
        self._credentials = credentials
        self._replicas: dict[str, replica.Replica] = {}
        self._turn = 0

    async def open(self, request: types.SessionOpen, *, eager: bool = False) -> client_stream.ClientStream:
        """An open session. Raises what the replicas said: the most telling error where all refused.

        With `eager` a replica that admitted the session before is taken at its word (see `core.ports.CloudTransport`).

        `ProtocolError`s of the request itself (version, digest, shape) come back typed, `CapacityError` when all are
        full, `UnavailableError` when none answers.
        """
        refusals: list[errors.MillinerError] = []
        for candidate in self._in_order(await self._find()):
            try:
                return await candidate.open(request, eager=eager)
            except errors.MillinerError as error:
                refusals.append(error)
        raise min(refusals, key=_how_telling)

    async def why_unreachable(self) -> str:
        """Why no replica could take a session now, or "" when one says that it serves.

        Asks all of them, so that one which has come back is preferred again.
        """
        try:
            found = await self._find()
        except errors.UnavailableError as error:
            return str(error)
        troubles = await asyncio.gather(*(candidate.check() for candidate in found))
        return "; ".join(troubles) if all(troubles) else ""

    @property
    def max_positions(self) -> int:
        """Most positions that a session may have on the roomiest replica that has said so; 0: unknown."""
        return max((known.max_positions for known in self._replicas.values()), default=0)

    async def wait_ready(self, timeout_s: float) -> None:
        """Until a connection to one replica stands. Raises `UnavailableError` if none does within `timeout_s`."""
        found = await self._find()
        waits = [asyncio.create_task(candidate.ready()) for candidate in found]
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        if not done:
            targets = ", ".join(candidate.target for candidate in found)
            raise errors.DeadlineExceeded(f"no connection to {targets} within {timeout_s} s", field="cloud")

    async def close(self) -> None:
        """Ends open sessions and closes all connections."""
        await asyncio.gather(*(known.close() for known in self._replicas.values()))
        self._replicas.clear()

    async def __aenter__(self) -> GrpcTransport:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _find(self) -> list[replica.Replica]:
        """The replicas that the endpoints' names lead to now; those with open sessions stay known."""
        found: dict[str, str] = {}  # target → authority
        refusals = []
        for host, port in self._endpoints:
            try:
                for target in await _look_up(host, port, timeout_s=self._timeouts.connect_s):
                    found[target] = f"{host}:{port}"
            except errors.UnavailableError as error:
                refusals.append(error)
        if not found:
            raise refusals[0]
        gone = [t for t, known in self._replicas.items() if t not in found and known.idle]
        closing = [self._replicas.pop(target) for target in gone]  # before waiting: others look for replicas too
        for target, authority in found.items():
            if target not in self._replicas:
                self._replicas[target] = replica.Replica(
                    target,
                    authority="" if authority == target else authority,
                    timeouts=self._timeouts,
                    pings=self._heartbeat,
                    credentials=self._credentials,
                    on_trouble=lambda: self.on_trouble(),
                )
        chosen = [self._replicas[target] for target in found]
        for known in closing:
            await known.close()
        return chosen

    def _in_order(self, found: list[replica.Replica]) -> list[replica.Replica]:
        turn = self._turn % len(found)
        self._turn += 1
        return sorted(found[turn:] + found[:turn], key=lambda candidate: (candidate.shunned, candidate.num_streams))


def _split(endpoint: str) -> tuple[str, int]:
    """("host", port) of "host:port" or "[v6]:port"."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit():
        raise errors.ConfigError(f"found {endpoint!r}, expected host:port", field="endpoints")
    return host.strip("[]"), int(port)


async def _look_up(host: str, port: int, *, timeout_s: float) -> list[str]:
    """The addresses behind a name, as gRPC targets. Raises `UnavailableError` when there is none."""
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:  # TimeoutError is one
        raise errors.UnavailableError(
            f"the name {host} leads nowhere: {error or 'timed out'}", field="cloud"
        ) from error
    addresses = dict.fromkeys(address[0] for *_, address in found)
    return [f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}" for address in addresses]


def _how_telling(error: errors.MillinerError) -> int:
    """Of several refusals the one to report: what is wrong with the request anywhere, then what waiting cures, then
    what is too much for some replica, then silence."""
    match error:
        case errors.UnavailableError():
            return 3
        case errors.PromptTooLong():
            return 2
        case errors.CapacityError():
            return 1
    return 0
