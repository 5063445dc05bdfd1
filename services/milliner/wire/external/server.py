"""The HTTP server of an external engine as one client sees it: addresses, key, deadlines, typed ends.

Nothing waits for ever. A stream that is silent for `quiet_s` has its server asked for something else, as a replica of
ours has a heartbeat: one that does not answer is given up at once, one that does gets `busy_s` in all. Comments that a
gateway sends to keep a stream open, and events without a token, are no sign that it will go on. Runs on the device's
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, NoReturn, Protocol, cast

import httpx

from milliner.contract import role_config
from milliner.core import errors
from milliner.wire.external import connections, event_stream, events, failures, key_file

_MOST_BODY_BYTES = 16 << 20  # of an answer that is no stream; arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class Timeouts:
    """All arbitrary, as those of our own replicas (`client_session.Timeouts`)."""

    connect_s: float = 5.0  # TCP and TLS
    look_s: float = 5.0  # a question that computes nothing
    quiet_s: float = 5.0  # silence after which a server is asked whether it lives
    busy_s: float = 120.0  # until an answer begins, and between two tokens of it


DEFAULT_TIMEOUTS = Timeouts()


class Route(Protocol):
    """The way to the server, where it is not direct (an emulated link)."""

    async def open(self, target: str) -> str: ...


class HttpServer:
    """See the module. `close` ends its connections."""

    def __init__(
        self,
        config: role_config.ExternalServer,
        *,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        route: Route | None = None,
    ) -> None:
        """Raises `ConfigError` for an address that is none, and for a key that cannot be read."""
        self.timeouts = timeouts
        self._base = _base(config.url)
        self._key = key_file.KeyFile(config.api_key_file)
        self._route = route
        self._dial: httpx.URL | None = None  # the other end of the route
        self._routing = asyncio.Lock()
        self._connections = connections.Connections(connect_s=timeouts.connect_s, tls=self._base.scheme == "https")

    @property
    def where(self) -> str:
        """The base URL, for people."""
        return str(self._base)

    async def close(self) -> None:
        await self._connections.close()

    async def look(self) -> Mapping[str, Any]:
        """The models that it lists. Raises what `failures` makes of a refusal, `DeadlineExceeded`."""
        return await self.ask("GET", "/models", within_s=self.timeouts.look_s)

    async def ask(
        self, method: str, path: str, *, within_s: float, body: object = None, below_root: bool = False
    ) -> Mapping[str, Any]:
        """The JSON of a plain answer; raises as `look` does."""
        try:
            async with (
                asyncio.timeout(within_s),
                self._answer(method, path, body=body, below_root=below_root) as response,
            ):
                return events.document(await _whole(response))
        except TimeoutError:
            raise self._late(within_s) from None

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, body: object, below_root: bool, headers: Mapping[str, str]
    ) -> AsyncIterator[event_stream.EventStream]:
        """The events of an answer that has begun. Leaving the block ends the answer on the server too, which sees the
        connection close, unless it was said to be `finished`. Raises as `ask` does."""
        connecting = self._answer("POST", path, body=body, below_root=below_root, headers=headers)
        async with contextlib.AsyncExitStack() as stack:
            head = asyncio.ensure_future(stack.enter_async_context(connecting))
            response = await self.watched(head, deadline_s=self.deadline_s())
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise errors.ProtocolError(
                    f"{self.where} was asked for a stream of events and sends "
                    f"{response.headers.get('content-type', 'no content type')}",
                    field=failures.URL_FIELD,
                )
            chunks = cast(AsyncGenerator[bytes, None], response.aiter_raw())
            await stack.enter_async_context(contextlib.aclosing(chunks))
            found = event_stream.EventStream(self, chunks)
            yield found
            if found.is_finished:
                self._connections.take_rest(chunks, stack.pop_all())

    def deadline_s(self) -> float:
        """When a server that lives is given up for a token that does not come, counted from now."""
        return asyncio.get_running_loop().time() + self.timeouts.busy_s

    async def watched(self, waiting: asyncio.Future[Any], *, deadline_s: float) -> Any:
        """The result of `waiting`, given up as the module says. Ends it whatever happens."""
        loop, times = asyncio.get_running_loop(), self.timeouts
        try:
            while not waiting.done():
                left_s = deadline_s - loop.time()
                if left_s <= 0:
                    raise self._late(times.busy_s)
                done, _ = await asyncio.wait([waiting], timeout=min(times.quiet_s, left_s))
                if not done:
                    await self._look_beside(waiting)
            return waiting.result()
        except httpx.HTTPError as error:
            self._broken(error)
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _look_beside(self, waiting: asyncio.Future[Any]) -> None:
        """Asks whether the server lives, until `waiting` is done. Raises `UnavailableError` where it does not."""
        looking = asyncio.ensure_future(self.look())
        try:
            await asyncio.wait([waiting, looking], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                with contextlib.suppress(errors.ProtocolError, errors.CapacityError, errors.InputError):
                    looking.result()  # whatever it answers, it lives
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        *,
        body: object,
        below_root: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """A successful answer's head; its body is still to be read."""
        url, extensions = await self._address(path, below_root=below_root)
        sent = {**(headers or {}), "Host": self._base.netloc.decode("ascii")}
        if key := self._key.read():
            sent["Authorization"] = f"Bearer {key}"
        try:
            async with self._connections.send(method, url, body=body, headers=sent, extensions=extensions) as response:
                if response.status_code != httpx.codes.OK:
                    raise failures.of_status(
                        response.status_code,
                        headers=response.headers,
                        body=await _whole(response),
                        where=f"{self.where} ({path})",
                    )
                yield response
        except httpx.HTTPError as error:
            self._broken(error)

    async def _address(self, path: str, *, below_root: bool) -> tuple[httpx.URL, dict[str, Any]]:
        prefix = self._base.path.rstrip("/")
        if below_root:
            prefix = prefix.removesuffix("/v1")
        base = self._base
        extensions: dict[str, Any] = {}
        if self._route is not None:
            async with self._routing:
                if self._dial is None:
                    port = base.port or (443 if base.scheme == "https" else 80)
                    host, _, dial_port = (await self._route.open(f"{base.host}:{port}")).rpartition(":")
                    self._dial = base.copy_with(host=host, port=int(dial_port))
            base, extensions = self._dial, {"sni_hostname": base.host}
        return base.copy_with(path=prefix + path), extensions

    def _broken(self, error: httpx.HTTPError) -> NoReturn:
        raise failures.of_transport(error, where=self.where) from error

    def _late(self, seconds: float) -> errors.DeadlineExceeded:
        return errors.DeadlineExceeded(f"{self.where} was silent for {seconds:g} s", field=failures.FIELD)


def _base(text: str) -> httpx.URL:
    """The base URL; of a server's root that is /v1."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise errors.ConfigError(f"{text!r} is no URL: {error}", field=failures.URL_FIELD) from None
    if not url.host or url.userinfo or url.query or url.fragment:
        raise errors.ConfigError(
            f"{text!r} is no base URL: write http://host:port/v1, the key apart from it", field=failures.URL_FIELD
        )
    return url.copy_with(path="/v1") if url.path in ("", "/") else url


async def _whole(response: httpx.Response) -> bytes:
    """The body of an answer, up to a limit that is the caller's to notice: cut JSON is none."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > _MOST_BODY_BYTES:
            break
    return bytes(content)
