"""The cloud's end of the wire: a gRPC server for a `core.ports.CloudService`, a `core.generation.TokenService` or both.

Called by the cloud role; runs on its event loop and calls no torch. One stream's failure never touches another.
`server_stream` and `token_server` hold what happens on one stream; here are the listening socket, health and draining.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from milliner.contract import addresses
from milliner.core import errors, generation, ports
from milliner.wire import messages, options, server_session, server_stream, token_messages, token_server

_Handler = Callable[[object, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[None]]


class CloudServer:
    """A listening server; made by `serve`. `async with` stops it at the end."""

    def __init__(self) -> None:
        self._door = server_session.Door()
        self._handlers: dict[str, _Handler] = {}  # by service
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # grpc-stubs lags behind
        self._server: grpc.aio.Server | None = None
        self.port = 0

    @property
    def open_sessions(self) -> int:
        """Sessions whose stream is open."""
        return len(self._door.sessions)

    def add_hidden_states(self, service: ports.CloudService, *, limits: server_stream.StreamLimits) -> None:
        """Serves hidden-state sessions; before `start`."""

        async def handle(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await server_stream.ServerStream(service, context, limits=limits, door=self._door).run()

        self._handlers[messages.SERVICE] = handle

    def add_tokens(self, service: generation.TokenService, *, limits: token_server.TokenLimits) -> None:
        """Serves token streams; before `start`."""

        async def handle(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await token_server.TokenServerStream(service, context, limits=limits, door=self._door).run()

        self._handlers[token_messages.SERVICE] = handle

    async def start(
        self,
        *,
        host: str,
        port: int,
        keepalive: options.Keepalive,
        credentials: grpc.ServerCredentials | None,
    ) -> None:
        """Binds and serves; health says NOT_SERVING until `set_serving`. Raises `ConfigError` if the port is taken."""
        server = grpc.aio.server(options=options.server_options(keepalive))
        for name, handle in self._handlers.items():
            method = grpc.stream_stream_rpc_method_handler(handle)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Session": method}),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        address = addresses.join(host, port)
        try:
            if credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise errors.ConfigError(f"cannot listen on {address}: {error}", field="listen.port") from error
        await self.set_serving(False)
        await server.start()
        self._server = server

    async def set_serving(self, serving: bool) -> None:
        """What `grpc.health.v1` answers, for the server as a whole and for each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._handlers):
            await self._health.set(name, status)

    async def drain(self) -> None:
        """Not ready any more and no new sessions; open ones go on."""
        self._door.draining = True
        await self.set_serving(False)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Drains, gives open sessions `grace_s` seconds to end, then cuts them; safe to call twice."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await self.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._door.idle.wait()
        # gRPC's own grace would also wait for health watches, which devices keep open
        await server.stop(None)

    async def wait(self) -> None:
        """Until the server has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()

    async def __aenter__(self) -> CloudServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def serve(
    service: ports.CloudService | None = None,
    *,
    tokens: generation.TokenService | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: server_stream.StreamLimits = server_stream.DEFAULT_LIMITS,
    token_limits: token_server.TokenLimits = token_server.DEFAULT_LIMITS,
    keepalive: options.Keepalive = options.DATA,
    credentials: grpc.ServerCredentials | None = None,
    serving: bool = True,
) -> CloudServer:
    """A started server on `host`:`port` (0: any free port, see `.port`), healthy at once unless `serving` is False.

    It serves hidden states, tokens or both. Raises `ConfigError` when the address cannot be bound.
    """
    assert service is not None or tokens is not None
    server = CloudServer()
    if service is not None:
        server.add_hidden_states(service, limits=limits)
    if tokens is not None:
        server.add_tokens(tokens, limits=token_limits)
    await server.start(host=host, port=port, keepalive=keepalive, credentials=credentials)
    await server.set_serving(serving)
    return server
