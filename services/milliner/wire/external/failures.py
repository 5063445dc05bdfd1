"""What an external engine's refusals mean: HTTP status and error body to the error tree of `core.errors`.

::

    400, 422 about the context        PromptTooLong
    401, 403                          ProtocolError of the key
    404 that knows no such model      DigestMismatch
    408, 5xx but 501, a broken line   UnavailableError
    429, 503 with Retry-After or of
    a full server                     CapacityError with that time
    504, silence                      DeadlineExceeded
    anything else                     ProtocolError with the server's own words

Pure.
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import Mapping
from typing import Any

import httpx

from milliner.core import errors

FIELD = "cloud.engine.external"
KEY_FIELD = f"{FIELD}.apiKeySecretRef"
MODEL_FIELD = f"{FIELD}.model"
URL_FIELD = f"{FIELD}.url"
MOST_WORDS = 300  # characters of a server's words that are passed on; arbitrary
_RETRY_S = 1.0  # where a full server names no time; arbitrary
_LONGEST_RETRY_S = 60.0  # arbitrary: a client that waits longer had better ask again
_CONTEXT_WORDS = ("context length", "context size", "maximum context", "context window", "max_model_len", "too long")
_FULL_WORDS = ("queue is full", "no slot available", "too many requests", "overloaded")  # SGLang, llama.cpp, gateways
_UNKNOWN_WORDS = ("not found", "not_found", "notfound", "does not exist", "doesn't exist", "unknown", "no such")


def of_status(status: int, *, headers: Mapping[str, str], body: bytes, where: str) -> errors.MillinerError:
    """The error that an answer with `status` stands for; `where` names the address that was asked."""
    said = words(body)
    told = f"{where} answers {status}" + (f": {said}" if said else "")
    match status:
        case 401 | 403:
            return errors.ProtocolError(f"{told}; it wants another key", field=KEY_FIELD)
        case 404 if "model" in said.lower() and any(part in said.lower() for part in _UNKNOWN_WORDS):
            return errors.DigestMismatch(told, field=MODEL_FIELD)
        case 400 | 413 | 422 if any(part in said.lower() for part in _CONTEXT_WORDS):
            return errors.PromptTooLong(told, field="prompt")
        case 429:
            return errors.CapacityError(told, field=FIELD, retry_after_s=_retry_after_s(headers))
        case 503 if "retry-after" in headers or any(part in said.lower() for part in _FULL_WORDS):
            return errors.CapacityError(told, field=FIELD, retry_after_s=_retry_after_s(headers))
        case 504:
            return errors.DeadlineExceeded(told, field=FIELD)
        case _ if status == 408 or (status >= 500 and status != 501):
            return errors.UnavailableError(told, field=FIELD)
    return errors.ProtocolError(told, field=URL_FIELD)


def of_event(event: Mapping[str, Any], *, where: str) -> errors.MillinerError | None:
    """The error that an event of a stream carries instead of tokens, or None. Without a status it is the server's."""
    error = event.get("error")
    if not error:
        return None
    body = json.dumps(event).encode()
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return of_status(code, headers={}, body=body, where=where)
    too_long = any(part in words(body).lower() for part in _CONTEXT_WORDS)
    return of_status(400 if too_long else 500, headers={}, body=body, where=where)


def of_transport(error: httpx.HTTPError, *, where: str) -> errors.MillinerError:
    """The error that a failed connection stands for."""
    why = str(error) or ("the connection broke off" if isinstance(error, httpx.NetworkError) else "")
    told = f"{where}: {type(error).__name__} {why}".rstrip()
    if isinstance(error, httpx.TimeoutException):
        return errors.DeadlineExceeded(told, field=FIELD)
    if isinstance(error, httpx.UnsupportedProtocol):
        return errors.ProtocolError(told, field=URL_FIELD)
    return errors.UnavailableError(told, field=FIELD)


def words(body: bytes) -> str:
    """What a server says in an error body, whichever form it has, cut to a reasonable length."""
    text = body.decode("utf-8", "replace").strip()
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return text[:MOST_WORDS]
    while isinstance(found, dict):  # {"error": {"message": ..}}, {"error": ..}, {"message": ..}, {"detail": ..}
        inner = [found[name] for name in ("error", "message", "detail") if found.get(name)]
        if not inner:
            break
        found = inner[0]
    return (found if isinstance(found, str) else json.dumps(found))[:MOST_WORDS]


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """Retry-After in seconds: a number, or a date (RFC 9110, 10.2.3), which is read by the server's own clock."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), _LONGEST_RETRY_S)
    try:
        then, now = (email.utils.parsedate_to_datetime(told) for told in (text, headers.get("date", "")))
        return min(max((then - now).total_seconds(), 0.0), _LONGEST_RETRY_S)
    except (TypeError, ValueError, OverflowError):  # no date, or one with a time zone and one without
        return _RETRY_S
