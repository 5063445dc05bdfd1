"""Whether what is watched is there: the kind of topologies, and each watched namespace. Beside kopf, which asks once.

kopf is told to scan nothing, which would take rights on definitions and namespaces. So it never notices a definition
that is installed after the operator started, and it ends for all namespaces when the rights in one of them are gone
with it. Here that namespace's watches alone are ended, before kopf's own retries are, and begin anew when it is back.
A kind that is gone ends the process: the one that the kubelet starts then waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

from milliner_operator import errors, kinds
from milliner_operator.api import Api
from milliner_operator.kopf_namespaces import Watched

_LOOK_S = 5.0  # arbitrary: kopf tries a watch that is refused for 54 s
_GONE_LOOKS = 3  # arbitrary: a definition that is replaced is away for a moment

_logger = logging.getLogger(__name__)


async def await_kind(client: Api) -> None:
    """Returns once the API server serves topologies; until then no probe of the operator succeeds."""
    while (why := await _why_unserved(client)) is not None:
        _logger.warning("waiting for %s: %s", kinds.TOPOLOGY.plural, why or "the definition is not installed")
        await asyncio.sleep(_LOOK_S)


async def keep(client: Api, watched: Watched, *, namespaces: Sequence[str], forget: Callable[[str], None]) -> NoReturn:
    """Looks until cancelled; `forget` is told of namespaces in which nothing may be done.

    Raises `KindGone` (*expected*) when topologies are not served any more.
    """
    away = 0
    while True:
        away = away + 1 if await _why_unserved(client) == "" else 0
        if away >= _GONE_LOOKS:
            raise errors.KindGone(f"{kinds.TOPOLOGY.plural} are not served any more: is their definition installed?")
        for namespace in namespaces if not away else ():
            await _look_at(client, watched, namespace, forget)
        await asyncio.sleep(_LOOK_S)


async def _why_unserved(client: Api) -> str | None:
    """None: topologies are served; '': they are not; else why that is not known."""
    try:
        return None if await client.serves(kinds.TOPOLOGY) else ""
    except errors.ApiError as error:
        return error.message or "no answer"


async def _look_at(client: Api, watched: Watched, namespace: str, forget: Callable[[str], None]) -> None:
    try:
        await client.list(kinds.TOPOLOGY, namespace, limit=1)
    except errors.Forbidden as error:
        if namespace in watched.names:
            _logger.warning("namespace %s is not watched any more: %s", namespace, error.message)
            await watched.end(namespace)
        forget(namespace)
    except errors.ApiError as error:
        _logger.warning("namespace %s: %s", namespace, error.message)
    else:
        if watched.is_ready and namespace not in watched.names:
            _logger.warning("namespace %s is watched again", namespace)
            await watched.begin(namespace)
