"""The cloud's end of the wire: a gRPC server that puts one `core.ports.CloudService` behind the session stream.

Called by the cloud role; runs on its event loop and calls no torch. One stream's failure never touches another.
`server_stream` holds what happens on one stream; here are the listening socket, health and draining.
"""

from __future__ import annotations

import asyncio
import contextlib

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from milliner.core import errors, ports
from milliner.wire import messages, options, server_stream


class CloudServer:
    """A listening server; made by `serve`. `async with` stops it at the end."""

    def __init__(self, service: ports.CloudService, *, limits: server_stream.StreamLimits) -> None:
        self._service = service
        self._limits = limits
        self._sessions: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # grpc-stubs lags behind
        self._server: grpc.aio.Server | None = None
        self.port = 0

    @property
    def open_sessions(self) -> int:
        """Sessions whose stream is open."""
        return len(self._sessions)

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
        session_handler = grpc.stream_stream_rpc_method_handler(self._serve_session)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(messages.SERVICE, {"Session": session_handler}),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
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
        """What `grpc.health.v1` answers, for the server as a whole and for the session service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", messages.SERVICE):
            await self._health.set(name, status)

    async def drain(self) -> None:
        """Not ready any more and no new sessions; open ones go on."""
        self._draining = True
        await self.set_serving(False)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Drains, gives open sessions `grace_s` seconds to end, then cuts them; safe to call twice."""
        if self._server is None:
            return
        server, self._server = self._server, None
        await self.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
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

    async def _serve_session(self, _: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        stream = server_stream.ServerStream(
            self._service, context, limits=self._limits, sessions=self._sessions, draining=lambda: self._draining
        )
        self._idle.clear()
        try:
            await stream.run()
        finally:
            if not self._sessions:
                self._idle.set()


async def serve(
    service: ports.CloudService,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    limits: server_stream.StreamLimits = server_stream.DEFAULT_LIMITS,
    keepalive: options.Keepalive = options.DATA,
    credentials: grpc.ServerCredentials | None = None,
    serving: bool = True,
) -> CloudServer:
    """A started server on `host`:`port` (0: any free port, see `.port`), healthy at once unless `serving` is False.

    Raises `ConfigError` when the address cannot be bound.
    """
    server = CloudServer(service, limits=limits)
    await server.start(host=host, port=port, keepalive=keepalive, credentials=credentials)
    await server.set_serving(serving)
    return server
