"""uvicorn as a part of a role: the role owns the listening socket and the signals. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette import applications

from milliner.api import connections, health
from milliner.core import errors

_ALL_ADDRESSES = "0.0.0.0"  # kubelets and the API server come from outside the pod

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
        await stack.enter_async_context(serving(told.app(), bind(_ALL_ADDRESSES, port, field="health_port")))


def bind(host: str, port: int, *, field: str = "listen.port") -> socket.socket:
    """A listening socket; raises `ConfigError` naming `field` when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise errors.ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", field=field) from None
    listening.setblocking(False)
    return listening
