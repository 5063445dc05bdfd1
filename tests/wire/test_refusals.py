"""What the cloud refuses: the same typed error at the device, the field's name, other streams untouched."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import grpc
import pytest
from tests.wire import conftest, toy_cloud

from milliner.contract.proto import hidden_states_pb2 as pb
from milliner.core import errors, types
from milliner.wire import client_stream, messages, options, server, server_stream

RAW = options.client_options(options.DATA, connect_s=5.0)
SIZE = 4 * toy_cloud.HIDDEN_SIZE


def open_bytes(**changes: object) -> bytes:
    return messages.write_open(dataclasses.replace(toy_cloud.session_open(), **changes))  # type: ignore[arg-type]


def frame_message(change: Callable[[pb.Frame], object] = lambda _: None) -> bytes:
    """A good frame after `change`, which may do what no client of ours can."""
    message = pb.DeviceMessage.FromString(messages.write_frame(toy_cloud.frame(num_tokens=2)))
    change(message.frame)
    return message.SerializeToString()


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How a raw stream ended."""

    messages: list[types.SessionOpened | types.HiddenReply | pb.Error]
    code: grpc.StatusCode
    details: str

    @property
    def error(self) -> pb.Error:
        last = self.messages[-1]
        assert isinstance(last, pb.Error)
        return last


async def talk(port: int, *sent: bytes) -> Ending:
    """Writes raw messages, half-closes and reads to the end."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=RAW) as channel:
        call = channel.stream_stream(messages.SESSION_METHOD, None, None)(None)
        for data in sent:
            await call.write(data)
        await call.done_writing()
        received = []
        try:
            while isinstance(answer := await call.read(), bytes):
                received.append(messages.parse_cloud_message(answer))
        except grpc.aio.AioRpcError:
            pass  # the code and details are asked for below
        return Ending(received, await call.code(), await call.details())


async def test_a_stream_that_ends_well_has_status_ok(pair: conftest.Pair) -> None:
    ending = await talk(pair.server.port, open_bytes(), frame_message())
    assert ending.code is grpc.StatusCode.OK
    assert [type(message) for message in ending.messages] == [types.SessionOpened, types.HiddenReply]
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])


@pytest.mark.parametrize(
    ("sent", "name", "field", "code"),
    [
        ([], "ProtocolError", "open", grpc.StatusCode.INVALID_ARGUMENT),
        ([b"\xff\xff\xffgarbage"], "ProtocolError", "message", grpc.StatusCode.INVALID_ARGUMENT),
        ([b""], "ProtocolError", "body", grpc.StatusCode.INVALID_ARGUMENT),
        ([frame_message()], "ProtocolError", "open", grpc.StatusCode.INVALID_ARGUMENT),
        ([open_bytes(session_id="")], "ProtocolError", "session_id", grpc.StatusCode.INVALID_ARGUMENT),
        ([open_bytes(session_id="s" * 1000)], "ProtocolError", "session_id", grpc.StatusCode.INVALID_ARGUMENT),
        (
            [open_bytes(protocol_version=99)],
            "VersionMismatch",
            "protocol_version",
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        ([open_bytes(model_digest="other")], "DigestMismatch", "model_digest", grpc.StatusCode.FAILED_PRECONDITION),
    ],
    ids=["nothing", "garbage", "empty", "frame-first", "no-id", "long-id", "version", "digest"],
)
async def test_a_bad_beginning_is_refused(
    pair: conftest.Pair, sent: list[bytes], name: str, field: str, code: grpc.StatusCode
) -> None:
    ending = await talk(pair.server.port, *sent)
    assert (ending.error.name, ending.error.field, ending.error.final) == (name, field, True)
    assert ending.code is code
    assert ending.error.message in ending.details
    assert pair.server.open_sessions == 0


@pytest.mark.parametrize(
    ("change", "name", "field", "code"),
    [
        (lambda f: setattr(f, "session_id", "s2"), "ForeignSession", "session_id", grpc.StatusCode.PERMISSION_DENIED),
        (lambda f: setattr(f, "kind", 77), "ProtocolError", "kind", grpc.StatusCode.INVALID_ARGUMENT),
        (lambda f: f.ClearField("kind"), "ProtocolError", "kind", grpc.StatusCode.INVALID_ARGUMENT),
        (lambda f: setattr(f, "reply_positions", 9), "ProtocolError", "reply_positions", None),
        (lambda f: setattr(f, "reply_codec", 99), "DtypeMismatch", "reply_codec", None),
        (lambda f: setattr(f.payloads[0], "codec", 99), "DtypeMismatch", "payloads[0].codec", None),
        (lambda f: f.ClearField("payloads"), "ShapeMismatch", "payloads", None),
        (lambda f: setattr(f.payloads[0], "num_tokens", 0), "ShapeMismatch", "payloads[0].num_tokens", None),
        (lambda f: setattr(f.payloads[0], "num_tokens", 3), "ShapeMismatch", "payloads[0].data", None),
        (lambda f: setattr(f.payloads[0], "data", f.payloads[0].data[:-1]), "ShapeMismatch", "payloads[0].data", None),
        (lambda f: f.payloads.add(codec=1, num_tokens=1, data=b"x"), "ShapeMismatch", "payloads[1].data", None),
        (lambda f: setattr(f.payloads[0], "num_tokens", 4_000_000_000), "FrameTooLarge", "payloads", None),
    ],
    ids=[
        "foreign-session",
        "unknown-kind",
        "no-kind",
        "unknown-positions",
        "unknown-reply-codec",
        "unknown-codec",
        "no-payload",
        "no-tokens",
        "too-few-bytes",
        "truncated",
        "second-payload",
        "too-many-tokens",
    ],
)
async def test_a_bad_frame_ends_its_stream_with_the_fields_name_and_no_other(
    pair: conftest.Pair, change: Callable[[pb.Frame], object], name: str, field: str, code: grpc.StatusCode | None
) -> None:
    bystander = await pair.transport.open(toy_cloud.session_open("bystander"))
    ending = await talk(pair.server.port, open_bytes(), frame_message(), frame_message(change), frame_message())
    assert [type(message) for message in ending.messages] == [types.SessionOpened, types.HiddenReply, pb.Error]
    assert (ending.error.name, ending.error.field, ending.error.final) == (name, field, True)
    assert ending.code is (code or grpc.StatusCode.INVALID_ARGUMENT)
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    await bystander.send(toy_cloud.frame(session_id="bystander"))
    assert (await bystander.receive()).kv_len == 1
    await bystander.close()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda f: setattr(f, "commit_pos", 5), "commit_pos"),
        (lambda f: setattr(f, "start_pos", 4095), "start_pos"),
    ],
    ids=["commit-beyond-start", "beyond-max-positions"],
)
async def test_a_position_outside_the_session_is_refused_and_the_stream_goes_on(
    pair: conftest.Pair, change: Callable[[pb.Frame], object], field: str
) -> None:
    ending = await talk(pair.server.port, open_bytes(), frame_message(change), frame_message())
    assert [type(message) for message in ending.messages] == [types.SessionOpened, pb.Error, types.HiddenReply]
    refusal = ending.messages[1]
    assert isinstance(refusal, pb.Error)
    assert (refusal.name, refusal.field, refusal.final) == ("PositionMismatch", field, False)
    assert ending.code is grpc.StatusCode.OK


async def test_a_second_open_ends_the_stream(pair: conftest.Pair) -> None:
    ending = await talk(pair.server.port, open_bytes(), open_bytes())
    assert (ending.error.name, ending.error.field) == ("ProtocolError", "open")


async def test_a_session_that_is_open_on_another_stream_is_refused_there_and_lives_here(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open("mine"))
    with pytest.raises(errors.ForeignSession, match="another stream") as caught:
        await pair.transport.open(toy_cloud.session_open("mine"))
    assert caught.value.field == "session_id"
    await stream.send(toy_cloud.frame(session_id="mine"))
    assert (await stream.receive()).kv_len == 1
    assert pair.cloud.closed == []
    await stream.close()


async def test_an_open_that_never_comes_ends_the_stream() -> None:
    limits = server_stream.StreamLimits(open_timeout_s=0.05)
    async with await server.serve(toy_cloud.ToyCloud(), limits=limits) as running:
        target = f"127.0.0.1:{running.port}"
        async with grpc.aio.insecure_channel(target, options=RAW) as channel:
            call = channel.stream_stream(messages.SESSION_METHOD, None, None)(None)
            data = await call.read()
            assert isinstance(data, bytes)
            message = messages.parse_cloud_message(data)
            assert isinstance(message, pb.Error)
            assert (message.name, message.field) == ("DeadlineExceeded", "open")
            assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "refusal",
    [
        errors.TooManySessions("8 of 8 sessions are open", field="sessions", retry_after_s=2.5),
        errors.KVCacheFull("no room for 4096 positions", field="max_positions", retry_after_s=0.5),
        errors.ShapeMismatch("slices differ", field="slice_start"),
        errors.PromptTooLong("too long", field="max_positions"),
    ],
)
async def test_a_refused_open_raises_the_same_error_at_the_device(
    pair: conftest.Pair, refusal: errors.MillinerError
) -> None:
    pair.cloud.refuse_open = refusal
    with pytest.raises(type(refusal)) as caught:
        await pair.transport.open(toy_cloud.session_open())
    assert type(caught.value) is type(refusal)
    assert (caught.value.message, caught.value.field) == (refusal.message, refusal.field)
    if isinstance(refusal, errors.CapacityError):
        assert isinstance(caught.value, errors.CapacityError)
        assert caught.value.retry_after_s == refusal.retry_after_s


@pytest.mark.parametrize("refusal", [errors.KVCacheFull("full", retry_after_s=0.25), errors.PositionMismatch("gap")])
async def test_a_recoverable_refusal_takes_its_frames_place_and_the_stream_goes_on(
    pair: conftest.Pair, refusal: errors.MillinerError
) -> None:
    pair.cloud.refuse_frame[1] = refusal
    stream = await pair.transport.open(toy_cloud.session_open())
    for index in range(3):
        await stream.send(toy_cloud.frame(round_index=index))
    assert (await stream.receive()).round == 0
    with pytest.raises(type(refusal)):
        await stream.receive()
    assert (await stream.receive()).round == 2
    await stream.close()


async def test_a_lost_session_ends_the_stream_after_the_replies_before_it(pair: conftest.Pair) -> None:
    pair.cloud.refuse_frame[1] = errors.UnknownSession("expired", field="session_id")
    stream = await pair.transport.open(toy_cloud.session_open())
    for index in range(2):
        await stream.send(toy_cloud.frame(round_index=index))
    assert (await stream.receive()).round == 0
    for _ in range(2):
        with pytest.raises(errors.UnknownSession, match="expired"):
            await stream.receive()
    with pytest.raises(errors.UnknownSession, match="expired"):
        await stream.send(toy_cloud.frame(round_index=2))
    await stream.close()


async def test_a_bug_in_the_service_ends_one_stream_without_telling_its_text(
    pair: conftest.Pair, caplog: pytest.LogCaptureFixture
) -> None:
    pair.cloud.refuse_frame[0] = RuntimeError("secret of the cloud")
    stream = await pair.transport.open(toy_cloud.session_open())
    bystander = await pair.transport.open(toy_cloud.session_open("bystander"))
    await stream.send(toy_cloud.frame())
    with pytest.raises(errors.UnavailableError, match="failed internally") as caught:
        await stream.receive()
    assert "secret" not in str(caught.value)
    assert "secret of the cloud" in caplog.text
    await bystander.send(toy_cloud.frame(session_id="bystander", round_index=1))
    assert (await bystander.receive()).round == 1
    await stream.close()
    await bystander.close()


async def test_the_device_does_not_send_what_the_cloud_would_refuse(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    with pytest.raises(errors.FrameTooLarge, match="1025 positions"):
        await stream.send(toy_cloud.frame(num_tokens=1025))
    with pytest.raises(errors.ShapeMismatch, match="width 8"):
        await stream.send(toy_cloud.with_data(toy_cloud.frame(), b"short"))
    await stream.send(toy_cloud.frame())
    assert (await stream.receive()).kv_len == 1
    await stream.close()


async def test_a_message_above_the_limit_is_refused_on_the_device(pair: conftest.Pair) -> None:
    pair.cloud.max_frame_tokens = 1 << 30
    stream = await pair.transport.open(dataclasses.replace(toy_cloud.session_open(), max_positions=1 << 30))
    frame = toy_cloud.frame(num_tokens=options.MAX_PAYLOAD_BYTES // SIZE + 1)
    with pytest.raises(errors.FrameTooLarge, match=str(options.MAX_PAYLOAD_BYTES)):
        await stream.send(frame)
    await stream.send(toy_cloud.frame())
    assert (await stream.receive()).kv_len == 1
    await stream.close()


async def test_a_server_that_speaks_something_else_is_named() -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=RAW) as channel:
            with pytest.raises(errors.VersionMismatch, match="no hidden-state protocol"):
                await client_stream.open_stream(conftest.line(channel), toy_cloud.session_open())
    finally:
        await other.stop(0)
