"""The seams that strategies are written against: clock, cloud transport, device compute.

In production they are the event loop's clock, gRPC streams and torch on an executor thread; in the simulator
virtual time, a modelled link and a modelled accelerator. Nothing here imports torch or a transport.
"""

from __future__ import annotations

from typing import Protocol

from milliner.core import types


class Clock(Protocol):
    """Monotonic time in seconds, and waiting."""

    def now(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class CloudStream(Protocol):
    """One open cloud session seen from the device. Sends and receives are independent; order is kept in each."""

    @property
    def opened(self) -> types.SessionOpened: ...

    async def send(self, frame: types.HiddenFrame) -> None:
        """Hands a frame to the transport; returns when the transport has taken it (back-pressure).

        Raises `core.errors.UnavailableError` when the stream is gone, `ProtocolError` or `CapacityError` as the
        cloud said.
        """
        ...

    async def receive(self) -> types.HiddenReply:
        """The next reply, in the order of the frames that asked for one (frames with `ReplyPositions.NONE` are
        answered too, without payload). Raises as `send` does."""
        ...

    async def close(self) -> None:
        """Ends the session on both tiers; safe to call twice and after errors."""
        ...


class CloudTransport(Protocol):
    """Opens cloud sessions; chooses the replica."""

    async def open(self, request: types.SessionOpen, *, eager: bool = False) -> CloudStream:
        """An open session; tries every replica once and raises the most telling refusal.

        With `eager` the stream may come back before the cloud has answered, with the limits of the session before:
        frames then travel right behind the opening, a round trip sooner, and a refusal comes from `send` or `receive`.
        """
        ...


class CloudService(Protocol):
    """The server side of the stream: what `wire.server` calls and the cloud role provides."""

    async def open(self, request: types.SessionOpen) -> types.SessionOpened: ...

    async def forward(self, frame: types.HiddenFrame) -> types.HiddenReply: ...

    async def close(self, session_id: str) -> None: ...
