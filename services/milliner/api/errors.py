"""Errors as OpenAI clients know them: `{"error": {"message", "type", "param", "code"}}` and an HTTP status.

The map from `core.errors` to HTTP is here and nowhere else; a test walks all subclasses. `HttpError` is for what only
HTTP knows: routes, methods, content types, body sizes.
"""

from __future__ import annotations

import dataclasses
import logging
import math

from starlette import responses

from milliner.core import errors


@dataclasses.dataclass(frozen=True, slots=True)
class Face:
    """How one kind of error looks to a client."""

    status: int
    type: str
    code: str


FACES: dict[type[errors.MillinerError], Face] = {
    errors.MillinerError: Face(500, "server_error", "internal_error"),
    errors.InputError: Face(400, "invalid_request_error", "invalid_value"),
    errors.PromptTooLong: Face(400, "invalid_request_error", "context_length_exceeded"),
    errors.UnknownModel: Face(404, "invalid_request_error", "model_not_found"),
    errors.ConfigError: Face(500, "server_error", "misconfigured"),
    errors.ProtocolError: Face(502, "server_error", "cloud_protocol_error"),
    errors.CapacityError: Face(429, "rate_limit_error", "overloaded"),
    errors.UnavailableError: Face(503, "service_unavailable_error", "cloud_unavailable"),
    errors.DeadlineExceeded: Face(504, "service_unavailable_error", "cloud_timeout"),
}
_LOG = logging.getLogger(__name__)
BUG = Face(500, "server_error", "internal_error")


class HttpError(Exception):
    """A request refused before it was understood."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.face = Face(status, "invalid_request_error", code)
        self.message = message


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


def face_of(error: BaseException) -> Face:
    """The face of the nearest ancestor in the tree; anything outside it is a bug of ours."""
    if isinstance(error, HttpError):
        return error.face
    for cls in type(error).__mro__:
        if cls in FACES:
            return FACES[cls]
    return BUG


def body_of(error: BaseException) -> dict[str, object]:
    """The JSON body. What a bug says stays in the log: it may quote a prompt."""
    face = face_of(error)
    if isinstance(error, errors.MillinerError):
        message, param = error.message, error.field or None
    elif isinstance(error, HttpError):
        message, param = error.message, None
    else:
        message, param = "an internal error; the server's log has the details under this request's id", None
    return {"error": {"message": message, "type": face.type, "param": param, "code": face.code}}


def event_of(error: BaseException) -> dict[str, object]:
    """The JSON of an error inside a stream: as `body_of`, with the status that the response can no longer carry."""
    told = body_of(error)["error"]
    assert isinstance(told, dict)
    return {"error": {**told, "status": face_of(error).status}}


def response_for(error: BaseException) -> responses.JSONResponse:
    """The whole HTTP response, `Retry-After` included where trying again may help."""
    headers = {}
    if isinstance(error, errors.CapacityError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, errors.UnavailableError):
        headers["Retry-After"] = "1"
    elif face_of(error).status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif face_of(error).status in (408, 413):
        headers["Connection"] = "close"  # the rest of the body is still to come, and nobody will read it
    return responses.JSONResponse(body_of(error), status_code=face_of(error).status, headers=headers)


def log_if_bug(error: BaseException) -> None:
    """Expected errors are the client's to read; everything else is ours, with its traceback."""
    if face_of(error) is BUG:
        _LOG.error("request failed through a bug", exc_info=error)


def unwrapped(error: BaseException) -> BaseException:
    """The first real error inside the groups that a `TaskGroup` raises."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
