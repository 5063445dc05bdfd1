"""uvicorn as a part of a role: the role owns the listening socket and the signals. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette import applications

from milliner.api import connections, health
from milliner.contract import addresses
from milliner.core import errors

ALL_ADDRESSES = "::"  # IPv4's too, as in gRPC; kubelets and the API server come from outside the pod
_ALL_IPV4 = "0.0.0.0"
# What a kernel without IPv6 says, or one that has it switched off.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENOPROTOOPT)

# An idle connection is the client's to close: one that the server closes just as it is used again fails a request.
# Longer than pools keep theirs (5 s in httpx and so in the openai client, 60 s in most proxies); uvicorn's own is 5 s.
KEEP_ALIVE_S = 75


class Server(uvicorn.Server):
    """Serves `application`; ends when `should_exit` is set, cutting what has not ended a second later."""

    def __init__(self, application: applications.Starlette) -> None:
        # Starlette's application has no lifespan of its own; log records go to the role's handlers.
        super().__init__(
            uvicorn.Config(
                application,
                log_config=None,
                access_log=False,
                lifespan="off",
                http=connections.BoundedProtocol,
                timeout_graceful_shutdown=1,  # the role has drained before
                timeout_keep_alive=KEEP_ALIVE_S,
                server_header=False,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the role (uvicorn would take SIGTERM and raise it again)."""
        yield


@contextlib.asynccontextmanager
async def serving(application: applications.Starlette, listening: socket.socket) -> AsyncIterator[None]:
    """Serves until the block ends."""
    server = Server(application)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve(sockets=[listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait([task])  # before the group would cancel it: then uvicorn leaves its socket open
            listening.close()


async def serve_health(told: health.Health, port: int | None, stack: contextlib.AsyncExitStack) -> None:
    """Serves health on a port of its own until `stack` ends, on all addresses; None: not at all."""
    if port is not None:
        await stack.enter_async_context(serving(told.app(), bind(ALL_ADDRESSES, port, field="health_port")))


def bind(host: str, port: int, *, field: str = "listen.port") -> socket.socket:
    """A listening socket; raises `ConfigError` naming `field` when the address cannot be had.

    `ALL_ADDRESSES` are those of IPv4 too, and those alone where there is no IPv6.
    """
    try:
        try:
            return _bound(host, port)
        except OSError as error:
            if host != ALL_ADDRESSES or error.errno not in _NO_IPV6:
                raise
            return _bound(_ALL_IPV4, port)
    except OSError as error:
        raise errors.ConfigError(
            f"cannot listen on {addresses.join(host, port)}: {error.strerror}", field=field
        ) from None


def _bound(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listening.family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != ALL_ADDRESSES))
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening
