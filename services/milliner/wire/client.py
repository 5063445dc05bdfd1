"""The device's ends of the wire: open sessions over gRPC, on the replica that `replicas` chooses.

Called by strategies on the device's event loop; calls no torch. Connections, replicas and their heartbeats belong to
one transport: a device whose strategy uses one service pays for one.
"""

from __future__ import annotations

from milliner.core import generation, types
from milliner.wire import client_session, client_stream, replicas, token_client, token_messages


class GrpcTransport(replicas.Replicas[types.SessionOpened, client_stream.ClientStream]):
    """Hidden-state sessions; implements `core.ports.CloudTransport`."""

    service = client_stream.DIALECT.service

    async def open(self, request: types.SessionOpen, *, eager: bool = False) -> client_stream.ClientStream:
        """An open session. Raises what the replicas said: the most telling error where all refused.

        With `eager` a replica that admitted the session before is taken at its word (see `core.ports.CloudTransport`).

        `ProtocolError`s of the request itself (version, digest, shape) come back typed, `CapacityError` when all are
        full, `UnavailableError` when none answers.
        """

        async def opening(line: client_session.Line[types.SessionOpened]) -> client_stream.ClientStream:
            return await client_stream.open_stream(line, request, expected=line.before if eager else None)

        return await self._open(opening)


class GrpcTokenTransport(replicas.Replicas[generation.GenerationOpened, token_client.TokenClientStream]):
    """Token streams of whole models; implements `core.generation.TokenTransport`."""

    service = token_client.DIALECT.service

    async def open(self, request: generation.GenerationOpen) -> token_client.TokenClientStream:
        """An open stream. Raises as `GrpcTransport.open` does, and `PromptTooLong` for what fits into no message."""
        token_messages.check_prompt(len(request.prompt_ids))

        async def opening(line: client_session.Line[generation.GenerationOpened]) -> token_client.TokenClientStream:
            return await token_client.open_stream(line, request)

        return await self._open(opening)
