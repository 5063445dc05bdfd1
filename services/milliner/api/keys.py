"""API keys: a folder each of whose files holds one, and the middleware that asks for it.

The folder is a mounted Secret: it is looked at again every `_LOOK_EVERY_S`, and files whose name begins with a dot are
not keys (kubelets keep theirs there). A folder without keys admits nobody. Event loop only.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import pathlib
import time
from collections.abc import Callable
from typing import Protocol

from starlette import datastructures
from starlette import types as asgi

from milliner.api import cache_salts, errors
from milliner.core import errors as core_errors

# Health says nothing about anybody's requests; the page is the same for everyone, and its requests need a key.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/probe"})
_LOOK_EVERY_S = 1.0  # arbitrary
_SCHEME = "bearer "

_log = logging.getLogger(__name__)

_Signature = tuple[tuple[str, int, int, int], ...]  # name, inode, time of change and size of each file


class Keys(Protocol):
    """Who may ask."""

    def admits(self, key: str) -> bool: ...


class KeyFolder:
    """See the module. Raises `ConfigError` when the folder cannot be read at the start; later it keeps what it knew."""

    def __init__(self, folder: pathlib.Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._monotonic = monotonic
        self._digests: tuple[bytes, ...] = ()
        self._signature: _Signature | None = None
        try:
            self._read()
        except OSError as error:
            raise core_errors.ConfigError(f"{folder} cannot be read: {error.strerror}", field="api_keys_dir") from error
        if not self._digests:
            _log.warning("%s holds no key: every request is refused until it does", folder)

    def admits(self, key: str) -> bool:
        """Whether it is one of the keys; takes the same time whichever it is and however much of it is right."""
        if self._monotonic() - self._looked_s >= _LOOK_EVERY_S:
            try:
                self._read()
            except OSError as error:
                _log.warning("%s cannot be read, its keys stay as they were: %s", self._folder, error.strerror)
        given = _digest(key.encode())
        found = [hmac.compare_digest(given, digest) for digest in self._digests]
        return any(found)

    def _read(self) -> None:
        self._looked_s = self._monotonic()
        files = sorted(each for each in self._folder.iterdir() if not each.name.startswith(".") and each.is_file())
        states = [(each.name, each.stat()) for each in files]
        signature = tuple((name, state.st_ino, state.st_mtime_ns, state.st_size) for name, state in states)
        if signature == self._signature:
            return
        keys = [each.read_bytes().strip() for each in files]
        self._digests = tuple(_digest(key) for key in keys if key)
        self._signature = signature
        _log.info("%d API keys in %s", len(self._digests), self._folder)


class RequireKey:
    """Refuses requests without a key, but for `OPEN_PATHS`. Pure ASGI, inside `middleware.Envelope`."""

    def __init__(self, app: asgi.ASGIApp, *, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = datastructures.Headers(scope=scope).get("authorization", "")
            if not given.lower().startswith(_SCHEME):
                raise errors.HttpError(401, "invalid_api_key", "send an API key, as Authorization: Bearer KEY")
            key = given[len(_SCHEME) :].strip()
            if not self._keys.admits(key):
                raise errors.HttpError(401, "invalid_api_key", "this API key is not known here")
            scope.setdefault("state", {})["tenant"] = cache_salts.of_key(key)
        await self._app(scope, receive, send)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
