"""The error tree of the runtime: every error that a peer, a file, a configuration or a user can cause.

::

    MillinerError
    ├── InputError              what a client asked for cannot be served            (HTTP 400)
    │   ├── PromptTooLong       prompt and answer fit neither now nor later         (HTTP 400)
    │   └── UnknownModel        the client named another model                      (HTTP 404)
    ├── ConfigError             a topology, role configuration or option is wrong   (exit 2)
    │   ├── CheckpointError     a model folder is unreadable or incomplete
    │   ├── SourceError         a source of files has not what is asked for, or refuses it
    │   ├── UnsupportedModel    the architecture is outside what slices support
    │   ├── SplitOutsideModel   a split point that the model does not have
    │   └── DrafterMismatch     an adapter or Medusa heads of another model or split
    ├── ProtocolError           a peer sent a frame that breaks the protocol        (gRPC INVALID_ARGUMENT)
    │   ├── VersionMismatch     protocol versions differ                            (FAILED_PRECONDITION)
    │   ├── DigestMismatch      model digests differ                                (FAILED_PRECONDITION)
    │   ├── ShapeMismatch       payload size, width or slice differ
    │   ├── DtypeMismatch       unknown or refused codec
    │   ├── PositionMismatch    start_pos or commit_pos outside the session         (OUT_OF_RANGE)
    │   ├── FrameTooLarge       above the negotiated limit
    │   ├── UnknownSession      the session never was, was closed or has expired    (NOT_FOUND)
    │   └── ForeignSession      the session belongs to another stream               (PERMISSION_DENIED)
    ├── CapacityError           refused for now; try again after retry_after_s      (RESOURCE_EXHAUSTED, HTTP 429)
    │   ├── KVCacheFull
    │   └── TooManySessions
    └── UnavailableError        the other tier cannot be reached or did not answer  (UNAVAILABLE, HTTP 503)
        └── DeadlineExceeded    a wait ran past its deadline                        (DEADLINE_EXCEEDED, HTTP 504)

`wire.status` maps the tree to gRPC codes and `api.errors` to HTTP; tests walk all subclasses.
Bugs of our own are `AssertionError`s and never part of this tree.
"""

from __future__ import annotations


class MillinerError(Exception):
    """An expected failure: which field caused it, what is wrong, and what to do instead.

    `field` is the name that the person or peer who caused it would recognise (`strategy.hat.splitLayer`,
    `max_tokens`, `commit_pos`); the message says found, expected and remedy.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class InputError(MillinerError):
    """What a client asked for cannot be served; the field is the request's parameter."""


class PromptTooLong(InputError):
    """Prompt and requested answer exceed the model's context or the whole KV cache: waiting does not help."""


class UnknownModel(InputError):
    """The client named a model that is not served here."""


class ConfigError(MillinerError):
    """A topology, a role configuration or a command-line option is wrong."""


class CheckpointError(ConfigError):
    """A model folder is unreadable or lacks something; the field names the file or tensor."""


class SourceError(ConfigError):
    """The place that files come from does not have them, refuses them, or has others than agreed; the field is the
    topology's (`model.source`)."""


class UnsupportedModel(ConfigError):
    """The checkpoint's architecture is outside what slices support."""


class SplitOutsideModel(ConfigError):
    """A split point or slice bound that the model does not have."""


class DrafterMismatch(ConfigError):
    """An adapter or Medusa heads trained for another model, split or form."""


class ProtocolError(MillinerError):
    """A peer sent something that breaks the protocol."""


class VersionMismatch(ProtocolError):
    """The peers speak different protocol versions."""


class DigestMismatch(ProtocolError):
    """The peers hold different models."""


class ShapeMismatch(ProtocolError):
    """Payload size, hidden width or slice bounds differ from what was agreed."""


class DtypeMismatch(ProtocolError):
    """A codec that is unknown or was not agreed."""


class PositionMismatch(ProtocolError):
    """`start_pos` or `commit_pos` lies outside what the session holds."""


class FrameTooLarge(ProtocolError):
    """A frame above the agreed limit of positions or bytes."""


class UnknownSession(ProtocolError):
    """The session never existed, was closed, or has expired."""


class ForeignSession(ProtocolError):
    """The session belongs to another stream."""


class CapacityError(MillinerError):
    """Refused for now; the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, message: str, *, field: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class KVCacheFull(CapacityError):
    """The KV cache's byte budget is spent."""


class TooManySessions(CapacityError):
    """The limit of concurrent sessions is reached."""


class UnavailableError(MillinerError):
    """The other tier cannot be reached or went away."""


class DeadlineExceeded(UnavailableError):
    """A wait ran past its deadline."""
