"""What every response carries, and what happens when an endpoint fails: pure ASGI, so that streams pass untouched."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping

from starlette import datastructures, requests
from starlette import types as asgi

from milliner.api import errors

# An id of the client's is echoed and written to logs, so only harmless characters pass (the length is arbitrary).
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")


class Envelope:
    """Puts `X-Request-ID` (the client's or a new one) and fixed headers on every response; answers uncaught errors."""

    def __init__(self, app: asgi.ASGIApp, *, headers: Mapping[str, str]) -> None:
        self._app = app
        self._headers = dict(headers)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = datastructures.Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_headers(message: asgi.Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = datastructures.MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.update(self._headers)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except (errors.ClientGone, requests.ClientDisconnect):
            return
        except Exception as error:
            if started:
                raise
            cause = errors.unwrapped(error)
            errors.log_if_bug(cause)
            await errors.response_for(cause)(scope, receive, send_with_headers)
