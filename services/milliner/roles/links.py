"""An emulated link in front of each cloud replica, made when the replica is found and given up with it.

The links run in processes of their own, where this device's compute does not make packets late. Implements
`wire.replicas.Route`; `async with` owns the processes. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import zlib
from typing import NoReturn

from milliner.contract import role_config
from milliner.roles import device_options
from milliner.wire import link_process, link_schedule


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    link: link_process.LinkProcess
    keeping: asyncio.Task[NoReturn]


class EmulatedLinks:
    """See the module. A link that cannot be kept up ends the block with `UnavailableError`."""

    def __init__(self, conditions: link_schedule.LinkConditions) -> None:
        self._conditions = conditions
        self._links: dict[str, _Kept] = {}
        self._group = asyncio.TaskGroup()

    async def open(self, target: str) -> str:
        """The address of the link to `target`. Raises `UnavailableError` when its process does not start."""
        host, _, port = target.rpartition(":")
        link = link_process.LinkProcess(host.strip("[]"), int(port), self._conditions)
        await link.__aenter__()
        self._links[target] = _Kept(link, self._group.create_task(link.keep(), name=f"link to {target}"))
        return f"127.0.0.1:{link.port}"

    async def close(self, target: str) -> None:
        """Ends the link's process."""
        kept = self._links.pop(target)
        kept.keeping.cancel()
        await asyncio.gather(kept.keeping, return_exceptions=True)
        await kept.link.__aexit__()

    async def __aenter__(self) -> EmulatedLinks:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        for target in list(self._links):
            await self.close(target)
        await self._group.__aexit__(*raised)  # type: ignore[arg-type]


async def route(config: role_config.AnsweringRoleConfig, stack: contextlib.AsyncExitStack) -> EmulatedLinks | None:
    """Emulated links in front of the cloud's replicas, ended with `stack`; None where the link is a real one."""
    # Each device has jitter of its own, the same at every start.
    conditions = device_options.link_conditions(config.emulation, seed=zlib.crc32(config.name.encode()))
    return None if conditions is None else await stack.enter_async_context(EmulatedLinks(conditions))
