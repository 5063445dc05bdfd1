"""Errors of the runtime to gRPC status codes and the wire's Error message, and back to the same typed error.

A peer's message names a class of `core.errors`; only classes of that tree are ever built from it. What fails outside
the tree (a bug) crosses the wire as `UnavailableError` without its text: the cloud's log has it.
"""

from __future__ import annotations

import grpc

from milliner.contract.proto import hidden_states_pb2 as pb
from milliner.core import errors, types

CODES: dict[type[errors.MillinerError], grpc.StatusCode] = {
    errors.MillinerError: grpc.StatusCode.INTERNAL,
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.VersionMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DigestMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PositionMismatch: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnknownSession: grpc.StatusCode.NOT_FOUND,
    errors.ForeignSession: grpc.StatusCode.PERMISSION_DENIED,
    errors.CapacityError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}

# A frame refused for one of these leaves the session as it was: the stream lives, the device may send again.
RECOVERABLE = (errors.CapacityError, errors.PositionMismatch)


def code_of(error: errors.MillinerError) -> grpc.StatusCode:
    """The gRPC code of the nearest class in the error's ancestry that has one."""
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def ends_stream(error: errors.MillinerError) -> bool:
    """Whether the cloud ends the stream after refusing a frame with this error."""
    return not isinstance(error, RECOVERABLE)


def internal_error() -> errors.UnavailableError:
    """What the peer hears of a bug: another replica may do better, the text stays in the log here."""
    return errors.UnavailableError("the cloud replica failed internally; its log says why", field="cloud")


def write_error(error: errors.MillinerError, *, final: bool, frame: types.HiddenFrame | None = None) -> bytes:
    """The Error message that stands in the place of the Opened or Reply which it refuses."""
    return pb.CloudMessage(error=error_message(error, final=final, frame=frame)).SerializeToString()


def error_message(error: errors.MillinerError, *, final: bool, frame: types.HiddenFrame | None = None) -> pb.Error:
    """What an error is on the wire, in whichever service's message."""
    return pb.Error(
        name=type(error).__name__,
        field=error.field,
        message=error.message,
        retry_after_s=error.retry_after_s if isinstance(error, errors.CapacityError) else 0.0,
        final=final,
        round=frame.round if frame else 0,
        start_pos=frame.start_pos if frame else 0,
    )


def read_error(message: pb.Error) -> errors.MillinerError:
    """The error that the cloud raised, as the same class; a class unknown here becomes `UnavailableError`."""
    cls = _CLASSES.get(message.name)
    if cls is None:
        return errors.UnavailableError(f"{message.name}: {message.message}", field=message.field)
    if issubclass(cls, errors.CapacityError):
        return cls(message.message, field=message.field, retry_after_s=message.retry_after_s)
    return cls(message.message, field=message.field)


def read_status(error: grpc.aio.AioRpcError, *, endpoint: str, protocol: str) -> errors.MillinerError:
    """What a stream's end without an Error message means: the transport failed, or the peer speaks no `protocol`."""
    text = f"{endpoint}: {error.details() or error.code().name}"
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(text, field="cloud")
        case grpc.StatusCode.UNIMPLEMENTED:
            return errors.VersionMismatch(f"{text}: this server speaks no {protocol}", field="cloud")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:  # gRPC's own: a message above the receiver's limit
            return errors.FrameTooLarge(text, field="message")
    return errors.UnavailableError(text, field="cloud")


def _subclasses(cls: type[errors.MillinerError]) -> dict[str, type[errors.MillinerError]]:
    found = {cls.__name__: cls}
    for subclass in cls.__subclasses__():
        found |= _subclasses(subclass)
    return found


_CLASSES = _subclasses(errors.MillinerError)
