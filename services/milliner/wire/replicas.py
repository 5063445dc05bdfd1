"""The replicas of one service that a device knows: where they are now, which one takes the next session.

`replica` knows one replica, `endpoints` the addresses, which come and go; each is a replica of its own. Opening goes
from replica to replica until one accepts: a dead, full or draining one costs `connect_s` at most, never the request.
`client` builds a transport of it for each service; runs on the device's event loop.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, Generic, Protocol, Self

from milliner.core import errors
from milliner.wire import client_session, options, replica, tls
from milliner.wire import endpoints as cloud_endpoints
from milliner.wire.patience import Patience
from milliner.wire.replica import OpenedT, StreamT


class Route(Protocol):
    """The way to replicas, where it is not direct (emulated links)."""

    async def open(self, target: str) -> str:
        """The address to connect to for the replica at `target`. Raises `UnavailableError`."""
        ...

    async def close(self, target: str) -> None:
        """The replica is not used any more."""
        ...


class DirectRoute:
    """A replica is where its address says."""

    async def open(self, target: str) -> str:
        return target

    async def close(self, target: str) -> None:
        """Nothing to give back."""


class Replicas(Generic[OpenedT, StreamT]):
    """Opens sessions of one service on a replica behind one of `endpoints`. Needs a running event loop.

    With `identity` connections are mutually authenticated by TLS; without, they are plain text.

    A new session prefers replicas that neither failed last time nor drain, then those with fewest sessions of this
    device, then takes turns. `on_trouble` is called at once when a replica falls silent or does not answer an opening.
    """

    service: ClassVar[str]  # whose health counts

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeouts: client_session.Timeouts = client_session.DEFAULT_TIMEOUTS,
        heartbeat: options.Keepalive = options.HEARTBEAT,
        identity: tls.Identity | None = None,
        route: Route | None = None,
    ) -> None:
        self.on_trouble: Callable[[], None] = lambda: None
        self._endpoints = cloud_endpoints.Endpoints(endpoints, within_s=timeouts.connect_s)
        self._timeouts = timeouts
        self._patience = Patience(timeouts.connect_s)
        self._heartbeat = heartbeat
        self._identity = identity
        self._route = route or DirectRoute()
        self._replicas: dict[str, replica.Replica[OpenedT, StreamT]] = {}
        self._changing = asyncio.Lock()  # replicas come and go one at a time
        self._turn = 0

    async def why_unreachable(self) -> str:
        """Why no replica could take a session now, or "" when one says that it serves.

        Looks up names and asks all of them, so that one which is new or has come back takes sessions.
        """
        if self._identity is not None and (trouble := self._identity.trouble()):
            return trouble
        try:
            found = await self._find(fresh=True)
        except errors.UnavailableError as error:
            return str(error)
        troubles = await asyncio.gather(*(candidate.check() for candidate in found))
        if not all(troubles):
            return ""
        self._be_patient(found)
        return "; ".join(troubles)

    @property
    def targets(self) -> frozenset[str]:
        """The replicas that are known."""
        return frozenset(self._replicas)

    @property
    def max_positions(self) -> int:
        """Most positions that a session may have on the roomiest replica that has said so; 0: unknown."""
        return max((known.max_positions for known in self._replicas.values()), default=0)

    async def wait_ready(self, timeout_s: float) -> None:
        """Until a connection to one replica stands. Raises `UnavailableError` if none does within `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        found = await self._find()
        waits = [asyncio.create_task(candidate.ready()) for candidate in found]
        pending, failures = set(waits), list[BaseException]()
        try:
            while pending:
                left_s = max(0.0, deadline_s - loop.time())
                done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                results = [_failure(wait) for wait in done]
                if None in results:
                    return
                failures += filter(None, results)
                if not done:
                    break
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        targets = ", ".join(candidate.target for candidate in found)
        if not pending:
            why = "; ".join(str(failure) or type(failure).__name__ for failure in failures)
            raise errors.UnavailableError(f"no connection to {targets}: {why}", field="cloud")
        raise errors.DeadlineExceeded(f"no connection to {targets} within {timeout_s} s", field="cloud")

    async def close(self) -> None:
        """Ends open sessions and closes all connections."""
        await asyncio.gather(*(known.close() for known in self._replicas.values()))
        self._replicas.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self, opening: Callable[[client_session.Line[OpenedT]], Awaitable[StreamT]]) -> StreamT:
        """The session that `opening` opened. Raises what the replicas said: the most telling error where all refused.

        `ProtocolError`s of the request itself (version, digest, shape) come back typed, `CapacityError` when all are
        full, `UnavailableError` when none answers.
        """
        refusals: list[errors.MillinerError] = []
        tried: set[str] = set()
        for fresh in (False, True):  # perhaps the names lead elsewhere by now
            try:
                found = [each for each in await self._find(fresh=fresh) if each.target not in tried]
            except errors.UnavailableError as error:
                refusals.append(error)
                continue
            for candidate in self._in_order(found):
                if self._replicas.get(candidate.target) is not candidate:
                    continue  # nothing led to it any more while another was tried: it is closed
                tried.add(candidate.target)
                try:
                    return await candidate.open(opening)
                except errors.MillinerError as error:
                    _let_go(error)
                    refusals.append(error)
        self._be_patient([each for each in self._replicas.values() if each.target in tried])
        raise min(refusals, key=_how_telling)

    def _be_patient(self, failed: Sequence[replica.Replica[OpenedT, StreamT]]) -> None:
        """None of these could be used: the next attempts take longer if one only came too late. Not for its sake
        alone, where others said no: those know of the link."""
        if any(each.was_late for each in failed) and not any(each.is_connected for each in failed):
            self._patience.nobody_answered()

    async def _find(self, *, fresh: bool = False) -> list[replica.Replica[OpenedT, StreamT]]:
        """The replicas that the endpoints lead to now; those with open sessions stay known."""
        found = await self._endpoints.find(fresh=fresh)
        if any(target not in self._replicas for target in found) or len(found) < len(self._replicas):
            async with self._changing:
                await self._change(found)
        return [known for target in found if (known := self._replicas.get(target)) is not None]

    async def _change(self, found: dict[str, str]) -> None:
        """Makes the replicas that are new and closes those that nothing leads to and nobody uses."""
        for target, authority in found.items():
            if target not in self._replicas:
                dial = await self._route.open(target)
                self._replicas[target] = self._replica(target, dial=dial, authority=authority)
        for target in [t for t, known in self._replicas.items() if t not in found and known.idle]:
            await self._replicas.pop(target).close()
            await self._route.close(target)

    def _replica(self, target: str, *, dial: str, authority: str) -> replica.Replica[OpenedT, StreamT]:
        if self._identity is not None and self._identity.server_name:
            authority = self._identity.server_name
        return replica.Replica(
            target,
            dial=dial,
            authority="" if authority == dial else authority,
            service=self.service,
            timeouts=self._timeouts,
            pings=self._heartbeat,
            identity=self._identity,
            patience=self._patience,
            on_trouble=self._on_replica_trouble,
        )

    def _on_replica_trouble(self) -> None:
        self._endpoints.forget()
        self.on_trouble()

    def _in_order(self, found: list[replica.Replica[OpenedT, StreamT]]) -> list[replica.Replica[OpenedT, StreamT]]:
        turn = self._turn % max(1, len(found))
        self._turn += 1
        return sorted(found[turn:] + found[:turn], key=lambda candidate: (candidate.shunned, candidate.num_streams))


def _failure(wait: asyncio.Task[None]) -> BaseException | None:
    """Why a task that is done did not succeed."""
    return asyncio.CancelledError() if wait.cancelled() else wait.exception()


def _let_go(error: BaseException) -> None:
    """Empties the frames that an opening has failed in. They hold its connection and the error holds them, in circles:
    closed or not, it would stand, or go on trying, until the garbage collector comes by, which is seldom."""
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__


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
