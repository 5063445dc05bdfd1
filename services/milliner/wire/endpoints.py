"""Which addresses the cloud's endpoints lead to now: "host:port", "dns:host:port" or "file:path" of a file of those.

Every address behind a name is a replica of its own; a headless Service has one for each pod. Answers are used for
`_FRESH_S`, or until `forget` is called because a replica was lost. A name server that does not answer changes nothing:
the last addresses stay. One that says that there are none is believed. Files, one endpoint a line, are read each time:
a cloud in another cluster may move without a restart here. Called by `client` on the event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import logging
import pathlib
import socket
import time
from collections.abc import Callable, Sequence

from milliner.contract import addresses
from milliner.core import errors

_DNS = "dns:"
_FILE = "file:"
_FRESH_S = 8.0  # arbitrary: a device that only watches looks every few seconds, so that requests seldom wait for a name

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where replicas are: a name or address, and a port."""

    host: str
    port: int

    @property
    def text(self) -> str:
        return addresses.join(self.host, self.port)


def parse(text: str) -> Endpoint:
    """The endpoint in "host:port", "[v6]:port" or "dns:host:port". Raises `ConfigError`."""
    host, _, port = text.removeprefix(_DNS).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise errors.ConfigError(f"found {text!r}, expected host:port or dns:host:port", field="endpoints")
    return Endpoint(addresses.bare_host(host), int(port))


class _File:
    """Endpoints in a file of a few lines. One that cannot be read or understood leaves them as they were."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._known: tuple[Endpoint, ...] = ()

    def read(self) -> tuple[Endpoint, ...]:
        """The endpoints of now; empty only where there has never been one."""
        try:
            self._known = tuple(map(parse, self.path.read_text().split())) or self._known
        except (OSError, UnicodeDecodeError, errors.ConfigError) as error:
            _log.warning("%s is of no use (%s): going on with what was known", self.path, error)
        return self._known


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[str, ...]
    at_s: float


class Endpoints:
    """See the module. `within_s` is the deadline of one look-up."""

    def __init__(
        self, texts: Sequence[str], *, within_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        if not texts:
            raise errors.ConfigError("at least one endpoint is needed, as host:port", field="endpoints")
        self._endpoints = [parse(text) for text in texts if not text.startswith(_FILE)]
        self._files = [_File(pathlib.Path(text.removeprefix(_FILE))) for text in texts if text.startswith(_FILE)]
        self._within_s = within_s
        self._monotonic = monotonic
        self._answers: dict[Endpoint, _Answer] = {}
        self._stale = False

    def forget(self) -> None:
        """A replica was lost: the next `find` looks again."""
        self._stale = True

    async def find(self, *, fresh: bool = False) -> dict[str, str]:
        """Target ("address:port") → the endpoint that led to it. Raises `UnavailableError` when there is none.

        With `fresh` names are looked up whatever is known.
        """
        again, self._stale = fresh or self._stale, False
        found: dict[str, str] = {}
        refusals: list[errors.UnavailableError] = []
        for endpoint in [*self._endpoints, *(each for file in self._files for each in file.read())]:
            try:
                for address in await self._addresses(endpoint, again=again):
                    found[addresses.join(address, endpoint.port)] = endpoint.text
            except errors.UnavailableError as error:
                refusals.append(error)
        if not found and not refusals:
            files = ", ".join(str(file.path) for file in self._files)
            raise errors.UnavailableError(f"no endpoint of the cloud is known: none in {files}", field="cloud")
        if not found:
            raise refusals[0]
        return found

    async def _addresses(self, endpoint: Endpoint, *, again: bool) -> tuple[str, ...]:
        if _is_address(endpoint.host):
            return (endpoint.host,)
        known = self._answers.get(endpoint)
        if known is not None and not again and self._monotonic() - known.at_s < _FRESH_S:
            return known.addresses
        try:
            async with asyncio.timeout(self._within_s):
                loop = asyncio.get_running_loop()
                answers = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except OSError as error:  # TimeoutError is one
            passing = isinstance(error, TimeoutError) or error.errno == socket.EAI_AGAIN
            if known is not None and passing:
                _log.warning("the name %s could not be looked up (%s): using what was known", endpoint.host, error)
                self._answers[endpoint] = _Answer(known.addresses, self._monotonic())
                return known.addresses
            self._answers.pop(endpoint, None)
            raise errors.UnavailableError(
                f"the name {endpoint.host} leads nowhere: {error or 'timed out'}", field="cloud"
            ) from error
        found = tuple(dict.fromkeys(str(address[0]) for *_, address in answers))
        self._answers[endpoint] = _Answer(found, self._monotonic())
        return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
