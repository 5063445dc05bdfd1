"""The stages behind this one: their transport, and whether they can be used now. Wiring for the cloud role.

A stage is ready when the one behind it says that it serves and has once, since it was last away or had a replica more,
admitted a session of this model and of these layers: readiness of the first stage is readiness of the whole chain. A
neighbour with another model is waited for, because during a roll-out it will pass. Looked at every `_CHECK_EVERY_S`,
and at once when the transport meets trouble.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import NoReturn

from milliner.contract import role_config
from milliner.core import errors, ports, tasks, types
from milliner.roles import hidden_state_service
from milliner.wire import client, pipeline, tls

_CHECK_EVERY_S = 5.0  # arbitrary: as often as devices look
_RETRY_S = 0.5  # while it is away; arbitrary


class Chain:
    """See the module. `reason` says why the stages behind cannot be used, or is "". `async with` owns connections."""

    def __init__(
        self,
        config: role_config.NextStage,
        *,
        served: hidden_state_service.Served,
        codec: types.Codec,
        identity: tls.Identity | None,
        clock: ports.Clock,
    ) -> None:
        self.reason = "the next stage has not answered yet"
        self._served = served
        self._clock = clock
        self._bounds = pipeline.StageBounds(served.slice_start, served.slice_end, config.chain_end, codec)
        self._transport = client.GrpcTransport(config.endpoints, identity=identity)
        self._suspected = asyncio.Event()
        self._transport.on_trouble = self._suspected.set
        self._admitted = frozenset[str]()  # the replicas that were known when one of them admitted a session

    def stage(self, own: ports.CloudService) -> pipeline.PipelineStage:
        """The service that computes with `own` and hands on."""
        return pipeline.PipelineStage(own, behind=self._transport, bounds=self._bounds, clock=self._clock)

    async def keep(self, on_change: Callable[[], Awaitable[None]]) -> NoReturn:
        """Looks at the next stage and calls `on_change` whenever `reason` has changed; until cancelled."""
        while True:
            self._suspected.clear()
            reason = await self._look()
            if reason != self.reason:
                self.reason = reason
                await on_change()
            await self._next_look()

    async def __aenter__(self) -> Chain:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.close()

    async def _look(self) -> str:
        if reason := await self._transport.why_unreachable():
            self._admitted = frozenset()
            return f"the next stage is not ready: {reason}"
        if not (targets := self._transport.targets) <= self._admitted or not self._admitted:
            try:
                stream = await self._transport.open(self._request())
            except errors.CapacityError:
                pass  # full: it serves somebody
            except errors.MillinerError as error:
                return f"the next stage refuses this one: {error}"
            else:
                await stream.close()
        self._admitted = targets
        return ""

    def _request(self) -> types.SessionOpen:
        return types.SessionOpen(
            session_id=secrets.token_hex(16),
            model_digest=self._served.model_digest,
            slice_start=self._bounds.end,
            slice_end=self._bounds.chain_end,
            hidden_size=self._served.hidden_size,
            max_positions=1,
        )

    async def _next_look(self) -> None:
        """Until somebody suspects a loss, or it is time; a suspicion shall not make a storm of looks."""
        if self.reason:
            await self._clock.sleep(_RETRY_S)
            return
        await tasks.set_within(self._suspected, _CHECK_EVERY_S, clock=self._clock)
