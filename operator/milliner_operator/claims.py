"""Which installation of the operator serves a namespace, where there is more than one. Decides; writes nothing.

An installation's chart makes a claim: a ConfigMap, either in each namespace that it is to watch, or one for all.
Whoever may serve a namespace may read the claim in it, so this takes no right that passes do not. A claim on a
namespace has a fixed name there: the API server keeps two from being made. It goes before claims on all namespaces; of
these the oldest counts. An operator that was not installed by a chart (`me` is empty) makes no claim and heeds none.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from milliner.contract import names
from milliner_operator import errors, kinds
from milliner_operator.api import Api
from milliner_operator.observed import Manifest

NAME = "milliner-claim"  # of a claim on one namespace, in that namespace
LABEL = f"{names.GROUP}/claim"
ONE, ALL = "namespace", "all"  # the label's values
_OWNER = "operator"  # key: namespace/name of the claiming operator's Deployment
_LOOK_S = 5.0  # arbitrary: how long two may serve the same, and then none
_HELD_S = 10.0  # arbitrary: how long after another has gone its topologies are due at the latest
_UNKNOWN_S = 1.0

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Claim:
    """That `owner` serves `namespace`, or every one (empty) that nobody claims by name, since then (RFC 3339)."""

    namespace: str
    owner: str
    since: str


def read(manifest: Manifest) -> Claim | None:
    """The claim in a ConfigMap; None where it is not one, as somebody may have made by hand."""
    metadata, owner = manifest["metadata"], (manifest.get("data") or {}).get(_OWNER)
    match (metadata.get("labels") or {}).get(LABEL):
        case "namespace" if owner and metadata["name"] == NAME:
            return Claim(metadata["namespace"], owner, metadata["creationTimestamp"])
        case "all" if owner:
            return Claim("", owner, metadata["creationTimestamp"])
    return None


def owner_of(namespace: str, claims: Sequence[Claim]) -> str:
    """Who serves a namespace, or '' where nobody claims it; with an empty `namespace`: who serves those unnamed."""
    named = [each.owner for each in claims if each.namespace == namespace and namespace]
    for_all = sorted((each.since, each.owner) for each in claims if not each.namespace)
    return next(iter(named), "") or next((owner for _, owner in for_all), "")


class Claims:
    """What is known of claims on the namespaces that the operator `me` watches (none: all)."""

    def __init__(self, client: Api, *, me: str, namespaces: Sequence[str]) -> None:
        self._client = client
        self._me = me
        self._namespaces = tuple(namespaces)
        self._known: tuple[Claim, ...] | None = () if not me else None

    def other(self, namespace: str) -> str | None:
        """The other operator that serves a namespace, '' where none does, None before that is known."""
        if self._known is None:
            return None
        owner = owner_of(namespace, self._known)
        return "" if owner == self._me or not self._me else owner

    def why_idle(self) -> str:
        """Why this operator serves nothing at all; '' where it serves."""
        others = {each: self.other(each) for each in self._namespaces or ("",)}
        if None in others.values():
            return "waiting: who else serves these namespaces is not known yet"
        if not all(others.values()):
            return ""
        told = (f"{namespace or 'all namespaces'}: served by {owner}" for namespace, owner in others.items())
        return f"yielding to an installation that is there already: {'; '.join(told)}"

    async def keep(self) -> NoReturn:
        """Looks until cancelled, and says in the log what has changed."""
        while True:
            if self._me:
                try:
                    await self._look()
                except errors.ApiError as error:
                    _logger.warning("claims of other operators cannot be read: %s", error.message)
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        if self._namespaces:
            gets = (self._client.get(kinds.CONFIG_MAP, each, NAME) for each in self._namespaces)
            found = [each for each in await asyncio.gather(*gets) if each is not None]
        else:
            found = list(await self._client.list(kinds.CONFIG_MAP, "", labels=LABEL))
        before, self._known = self._known or (), tuple(each for each in map(read, found) if each is not None)
        for namespace in sorted({each.namespace for each in (*before, *self._known)} | set(self._namespaces)):
            old, new = owner_of(namespace, before), owner_of(namespace, self._known)
            if old != new:
                level = logging.INFO if new == self._me else logging.WARNING
                _logger.log(level, "%s: served by %s", namespace or "all namespaces", new or "whoever watches")


class Gate:
    """Passes of a `WorkQueue` over what no other operator serves; what another does is looked for again later."""

    def __init__(
        self,
        handle: Callable[[tuple[str, str]], Awaitable[float | None]],
        *,
        claims: Claims,
        left: Callable[[str, str], None],
    ) -> None:
        """`left` is told of topologies that are another's."""
        self._handle = handle
        self._claims = claims
        self._left = left

    async def __call__(self, key: tuple[str, str]) -> float | None:
        other = self._claims.other(key[0])
        if other is None:
            return _UNKNOWN_S
        if other:
            self._left(*key)
            return _HELD_S
        return await self._handle(key)
