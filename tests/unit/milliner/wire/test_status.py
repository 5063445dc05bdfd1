"""Every error of the tree has a gRPC code and comes back from the wire as itself."""

from __future__ import annotations

import grpc
import pytest

from milliner.contract.proto import hidden_states_pb2 as pb
from milliner.core import errors
from milliner.wire import messages, status


def all_errors(cls: type[errors.MillinerError] = errors.MillinerError) -> list[type[errors.MillinerError]]:
    """The tree of `core.errors`; what higher layers derive for themselves never crosses the wire."""
    subclasses = [subclass for subclass in cls.__subclasses__() if subclass.__module__ == errors.__name__]
    return [cls, *(found for subclass in subclasses for found in all_errors(subclass))]


def documented_codes() -> dict[str, str]:
    """Class → gRPC code, as the tree in the docstring of `core.errors` promises."""
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        words = line.replace("│", " ").replace("├──", " ").replace("└──", " ").split()
        code = line.rpartition("(")[2].rstrip(")").removeprefix("gRPC ").partition(",")[0]
        if words and hasattr(errors, words[0]) and code in grpc.StatusCode.__members__:
            found[words[0]] = code
    return found


def across_the_wire(error: errors.MillinerError) -> errors.MillinerError:
    message = messages.parse_cloud_message(status.write_error(error, final=True))
    assert isinstance(message, pb.Error)
    return status.read_error(message)


@pytest.mark.parametrize("cls", all_errors())
def test_an_error_crosses_the_wire_as_itself(cls: type[errors.MillinerError]) -> None:
    back = across_the_wire(cls("what is wrong", field="some.field"))
    assert type(back) is cls
    assert (back.message, back.field) == ("what is wrong", "some.field")


@pytest.mark.parametrize("cls", all_errors())
def test_an_error_has_a_code_that_says_failure(cls: type[errors.MillinerError]) -> None:
    assert status.code_of(cls("x")) not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


def test_codes_are_those_that_the_error_tree_documents() -> None:
    documented = documented_codes()
    assert len(documented) >= 9
    for name, code in documented.items():
        assert status.code_of(getattr(errors, name)("x")).name == code


def test_retry_after_crosses_the_wire() -> None:
    back = across_the_wire(errors.KVCacheFull("full", retry_after_s=0.125))
    assert isinstance(back, errors.KVCacheFull)
    assert back.retry_after_s == 0.125


@pytest.mark.parametrize("name", ["NewerError", "AssertionError", "", "CapacityErrors"])
def test_a_name_outside_the_tree_builds_nothing_but_unavailable(name: str) -> None:
    back = status.read_error(pb.Error(name=name, message="text"))
    assert type(back) is errors.UnavailableError
    assert "text" in back.message


@pytest.mark.parametrize("cls", all_errors())
def test_only_refusals_that_leave_the_session_as_it_was_keep_the_stream(cls: type[errors.MillinerError]) -> None:
    keeps = issubclass(cls, errors.CapacityError | errors.PositionMismatch)
    assert status.ends_stream(cls("x")) is not keeps


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.FrameTooLarge),
        (grpc.StatusCode.UNIMPLEMENTED, errors.VersionMismatch),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnavailableError),
    ],
)
def test_a_transports_own_failure_becomes_a_typed_error(code: grpc.StatusCode, cls: type[errors.MillinerError]) -> None:
    failure = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "because", None)
    error = status.read_status(failure, endpoint="replica:1", protocol="hidden-state protocol")
    assert type(error) is cls
    assert "replica:1: because" in str(error)
