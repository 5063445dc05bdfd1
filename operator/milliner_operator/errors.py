"""What may go wrong in the operator, by what is done about it.

OperatorError
├── SettingsInvalid     the environment is wrong: the process ends, naming the variable
├── KindGone            the API server does not serve topologies any more: the process ends, to be started anew
└── ApiError            an answer of an API server that is no success (*expected*: tried again with backoff)
    ├── NotFound        404
    ├── Conflict        409: the object changed meanwhile, or exists already
    ├── Forbidden       401, 403: the operator lacks a permission, or admission refuses the object
    ├── Refused         400, 422: the API server finds the object invalid
    ├── Failed          500: the API server fails on this object, or a webhook that it asks
    └── Unreachable     no answer, 429 or another 5xx
"""

from __future__ import annotations


class OperatorError(Exception):
    """Base of all errors that the operator raises itself."""


class SettingsInvalid(OperatorError):
    """An environment variable is malformed; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(f"{field}: {message}")


class KindGone(OperatorError):
    """The definition of topologies was deleted."""


class ApiError(OperatorError):
    """An API server's answer that is no success; `status` is its HTTP status, 0 without an answer."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        self.message = message
        super().__init__(f"{status}: {message}" if status else message)


class NotFound(ApiError):
    """The object is not there."""


class Conflict(ApiError):
    """The object changed meanwhile, or exists already."""


class Forbidden(ApiError):
    """A permission is missing, or admission refuses the object."""


class Refused(ApiError):
    """The API server finds the object invalid."""


class Failed(ApiError):
    """The API server fails on the object, most often because a webhook that it asks does not answer."""


class Unreachable(ApiError):
    """No answer in time, or an answer that says: later."""


def of_status(status: int, message: str) -> ApiError:
    """The error of an HTTP status."""
    match status:
        case 404 | 410:
            return NotFound(status, message)
        case 409:
            return Conflict(status, message)
        case 401 | 403:
            return Forbidden(status, message)
        case 400 | 422:
            return Refused(status, message)
        case 500:
            return Failed(status, message)
        case _:
            return Unreachable(status, message)
