"""Talks to a device's OpenAI-compatible API: streams an answer piece by piece. Used by `generate`, `chat` and `demo`.

Nothing of ours is needed on the wire but the `milliner` block that the device adds on request. Errors of the API come
back as the errors they were (`core.errors`), as far as status and body tell; whatever else listens at the address is a
`ProtocolError`, an answer that breaks off an `UnavailableError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

import httpx

from milliner.core import errors

_CONNECT_S = 5.0  # arbitrary: the device is on this machine or near it
_READ_S = 300.0  # arbitrary: between two pieces of an answer, prefill of a long prompt on a slow link included


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer. `explain` is the `milliner` block, on the last piece, where it was asked for."""

    text: str
    finish_reason: str | None = None
    token_ids: tuple[int, ...] = ()
    usage: Mapping[str, Any] | None = None
    explain: Mapping[str, Any] | None = None


def merged(earlier: Piece, later: Piece) -> Piece:
    """What is known after both: texts and token ids joined, the rest as the later one that says it."""
    return Piece(
        text=earlier.text + later.text,
        finish_reason=later.finish_reason or earlier.finish_reason,
        token_ids=earlier.token_ids + later.token_ids,
        usage=later.usage or earlier.usage,
        explain=later.explain or earlier.explain,
    )


class DeviceClient:
    """A client of one device; use as an asynchronous context manager."""

    def __init__(self, base_url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        timeout = httpx.Timeout(_READ_S, connect=_CONNECT_S)
        # Proxies of the environment are for other hosts than the devices that a runner starts.
        self._url = base_url
        self._http = httpx.AsyncClient(base_url=base_url, timeout=timeout, trust_env=False, transport=transport)

    async def __aenter__(self) -> DeviceClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def models(self) -> tuple[str, ...]:
        """The names that the device serves."""
        with self._as_unavailable():
            response = await self._http.get("/v1/models")
        _raise_for(response.status_code, response.content)
        try:
            names = tuple(str(model["id"]) for model in response.json()["data"])
        except (ValueError, KeyError, TypeError):
            raise self._foreign("/v1/models") from None
        if not names:
            raise self._foreign("/v1/models")
        return names

    async def ready(self) -> tuple[bool, str]:
        """Whether the device serves requests, and what `/readyz` says."""
        try:
            response = await self._http.get("/readyz")
        except httpx.HTTPError as error:
            return False, type(error).__name__
        return response.status_code == 200, response.text

    async def complete(self, prompt: str | list[int], **options: Any) -> AsyncGenerator[Piece, None]:
        """Streams the continuation of `prompt`, a text or token ids; `options` go into the body as they are."""
        async with contextlib.aclosing(self._stream("/v1/completions", {"prompt": prompt, **options})) as chunks:
            async for chunk in chunks:
                yield _piece(chunk, lambda choice: str(choice.get("text") or ""))

    async def chat(self, messages: list[dict[str, str]], **options: Any) -> AsyncGenerator[Piece, None]:
        """Streams the answer to a conversation; `options` go into the body as they are."""
        async with contextlib.aclosing(
            self._stream("/v1/chat/completions", {"messages": messages, **options})
        ) as chunks:
            async for chunk in chunks:
                yield _piece(chunk, lambda choice: str((choice.get("delta") or {}).get("content") or ""))

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        with self._as_unavailable():
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    _raise_for(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    data = line.removeprefix("data:").strip()
                    if not line.startswith("data:") or not data:
                        continue
                    if data == "[DONE]":
                        return
                    yield self._chunk(data, path)
        raise errors.UnavailableError(f"the answer of {self._url} broke off: ask again")

    def _chunk(self, data: str, path: str) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except ValueError:
            raise self._foreign(path) from None
        if not isinstance(chunk, dict):
            raise self._foreign(path)
        if "error" in chunk:
            told = chunk["error"]
            status = told.get("status") if isinstance(told, dict) else None
            _raise_for(status if isinstance(status, int) else 503, data.encode())
        return chunk

    def _foreign(self, path: str) -> errors.ProtocolError:
        return errors.ProtocolError(f"what answers at {self._url}{path} is no device of Milliner: check the address")

    @contextlib.contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise errors.DeadlineExceeded(
                f"the device at {self._url} did not answer in time ({type(error).__name__})"
            ) from error
        except httpx.TransportError as error:
            raise errors.UnavailableError(
                f"the device at {self._url} cannot be reached ({error or type(error).__name__}): "
                "check the address, or start one with milliner up"
            ) from error


def _piece(chunk: Mapping[str, Any], text_of: Any) -> Piece:
    choice = chunk["choices"][0] if chunk.get("choices") else {}
    return Piece(
        text=text_of(choice),
        finish_reason=choice.get("finish_reason"),
        token_ids=tuple(choice.get("token_ids") or ()),
        usage=chunk.get("usage"),
        explain=chunk.get("milliner"),
    )


def _raise_for(status: int, body: bytes) -> None:
    """Raises what an OpenAI-shaped error body says; does nothing below 400."""
    if status < 400:
        return
    try:
        told = json.loads(body)["error"]
        message, field = str(told["message"]), str(told.get("param") or "")
    except (ValueError, KeyError, TypeError):
        message, field = f"HTTP {status}: {body[:200].decode('utf-8', 'replace')}", ""
    if status == 404:
        raise errors.UnknownModel(message, field=field)
    if status == 429:
        raise errors.CapacityError(message, field=field)
    if status == 504:
        raise errors.DeadlineExceeded(message, field=field)
    if status >= 500:
        raise errors.UnavailableError(message, field=field)
    raise errors.InputError(message, field=field)
