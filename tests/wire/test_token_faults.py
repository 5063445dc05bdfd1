"""Token streams whose peer dies, falls silent, does not read or says odd things: found in time, typed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import pathlib
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from tests.wire import certificates, conftest, test_faults, toy_tokens

from milliner.contract.proto import tokens_pb2 as pb
from milliner.core import errors
from milliner.wire import client, emulated_link, options, server, tls, token_messages, token_server, token_spans

RAW: options.ChannelOptions = options.client_options(options.DATA, connect_s=5.0)
LONG = 100_000  # tokens: never reached


@pytest.fixture
async def pair() -> AsyncIterator[conftest.TokenPair]:
    async with conftest.token_pair(toy_tokens.ToyTokens()) as both:
        yield both


@contextlib.asynccontextmanager
async def over_link(
    pair: conftest.TokenPair, conditions: emulated_link.LinkConditions = test_faults.LOCAL
) -> AsyncIterator[tuple[client.GrpcTokenTransport, emulated_link.EmulatedLink]]:
    async with (
        emulated_link.EmulatedLink("127.0.0.1", pair.server.port, conditions) as link,
        client.GrpcTokenTransport([f"127.0.0.1:{link.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        yield transport, link


@contextlib.asynccontextmanager
async def raw_call(
    port: int, *, chosen: options.ChannelOptions = RAW
) -> AsyncIterator[grpc.aio.StreamStreamCall[bytes, bytes]]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=chosen) as channel:
        yield channel.stream_stream(token_messages.SESSION_METHOD, None, None)(None)


async def refusal(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> tuple[pb.Error, grpc.StatusCode]:  # type: ignore[name-defined]
    """Reads to the end: the last message, and the status."""
    last = b""
    with contextlib.suppress(grpc.aio.AioRpcError):  # the code is asked for below
        while isinstance(data := await call.read(), bytes):
            last = data
    return pb.TokensCloudMessage.FromString(last).error, await call.code()


def open_message(change: Callable[[pb.TokensOpen], object] = lambda _: None, *, session_id: str = "raw") -> bytes:
    """A good Open after `change`, which may do what no client of ours can."""
    request = toy_tokens.token_open(session_id, max_tokens=LONG)
    message = pb.TokensDeviceMessage.FromString(token_messages.write_open(request))
    change(message.open)
    return message.SerializeToString()


INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNSORTED = [pb.Span(start=1, end=2), pb.Span(start=0, end=1)]
TOO_MANY = [pb.Span(start=i, end=i + 1) for i in range(token_spans.MAX_SPANS + 1)]


@pytest.mark.parametrize(
    ("sent", "name", "field", "code"),
    [
        ([b"\xff\xff\xffgarbage"], "ProtocolError", "message", INVALID),
        ([b""], "ProtocolError", "body", INVALID),
        ([token_messages.write_limit(3)], "ProtocolError", "open", INVALID),
        ([open_message(session_id="")], "ProtocolError", "session_id", INVALID),
        ([open_message(lambda o: setattr(o, "claim", "c" * 300))], "ProtocolError", "claim", INVALID),
        ([open_message(lambda o: setattr(o, "salt", "s" * 2000))], "ProtocolError", "salt", INVALID),
        ([open_message(lambda o: o.ClearField("prompt_ids"))], "ProtocolError", "prompt_ids", INVALID),
        ([open_message(lambda o: setattr(o, "max_tokens", 0))], "ProtocolError", "max_tokens", INVALID),
        ([open_message(lambda o: setattr(o, "max_tokens", -5))], "ProtocolError", "max_tokens", INVALID),
        ([open_message(lambda o: o.ClearField("sampling"))], "ProtocolError", "sampling.top_p", INVALID),
        (
            [open_message(lambda o: setattr(o.sampling, "temperature", float("nan")))],
            "ProtocolError",
            "sampling.temperature",
            INVALID,
        ),
        (
            [open_message(lambda o: setattr(o.sampling, "num_logprobs", 1_000_000))],
            "ProtocolError",
            "sampling.num_logprobs",
            INVALID,
        ),
        ([open_message(lambda o: setattr(o, "keep_share", 0.0))], "ProtocolError", "keep_share", INVALID),
        ([open_message(lambda o: setattr(o, "keep_share", 1.01))], "ProtocolError", "keep_share", INVALID),
        ([open_message(lambda o: setattr(o, "keep_share", float("nan")))], "ProtocolError", "keep_share", INVALID),
        ([open_message(lambda o: o.keep_spans.add(start=1, end=1))], "ProtocolError", "keep_spans", INVALID),
        ([open_message(lambda o: o.keep_spans.add(start=2, end=4))], "ProtocolError", "keep_spans", INVALID),
        ([open_message(lambda o: o.keep_spans.extend(UNSORTED))], "ProtocolError", "keep_spans", INVALID),
        ([open_message(lambda o: o.keep_spans.extend(TOO_MANY))], "ProtocolError", "keep_spans", INVALID),
        ([open_message(lambda o: o.stop_token_ids.extend(range(5000)))], "ProtocolError", "stop_token_ids", INVALID),
        (
            [open_message(lambda o: setattr(o, "protocol_version", 99))],
            "VersionMismatch",
            "protocol_version",
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        (
            [open_message(lambda o: setattr(o, "model_digest", "other"))],
            "DigestMismatch",
            "model_digest",
            grpc.StatusCode.FAILED_PRECONDITION,
        ),
        ([open_message(session_id="bystander")], "ForeignSession", "session_id", grpc.StatusCode.PERMISSION_DENIED),
        ([open_message(), open_message()], "ProtocolError", "open", INVALID),
        ([open_message(), b"\xff\xff\xffgarbage"], "ProtocolError", "message", INVALID),
        ([open_message(), token_messages.write_limit(-1)], "ProtocolError", "max_tokens", INVALID),
        ([open_message(), token_messages.write_limit(2**31 - 1)], "ProtocolError", "max_tokens", INVALID),
    ],
    ids=[
        "garbage",
        "empty",
        "limit-first",
        "no-id",
        "long-claim",
        "long-salt",
        "no-prompt",
        "no-tokens",
        "fewer-than-none",
        "no-sampling",
        "nan",
        "logprobs",
        "keep-nothing",
        "keep-more-than-all",
        "keep-nan",
        "empty-span",
        "span-outside",
        "unsorted-spans",
        "spans",
        "stop-tokens",
        "version",
        "digest",
        "session-of-another",
        "open-twice",
        "garbage-later",
        "negative-limit",
        "absurd-limit",
    ],
)
async def test_what_is_odd_ends_its_stream_with_the_fields_name_and_no_other(
    pair: conftest.TokenPair, sent: list[bytes], name: str, field: str, code: grpc.StatusCode
) -> None:
    pair.cloud.step_s = 0.001
    bystander = await pair.transport.open(toy_tokens.token_open("bystander", max_tokens=LONG))
    async with raw_call(pair.server.port) as call:
        for data in sent:
            await call.write(data)
        error, found = await refusal(call)
    assert (error.name, error.field, error.final, found) == (name, field, True, code)
    await conftest.eventually(lambda: pair.server.open_sessions == 1)
    await bystander.set_limit(20)
    assert len(await toy_tokens.the_rest(bystander)) >= 20
    await bystander.close()


async def test_an_open_that_never_comes_ends_the_stream() -> None:
    limits = token_server.TokenLimits(open_timeout_s=0.05)
    async with (
        conftest.token_pair(toy_tokens.ToyTokens(), limits=limits) as pair,
        raw_call(pair.server.port) as call,
    ):
        error, code = await refusal(call)
    assert (error.name, error.field, code) == ("DeadlineExceeded", "open", grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    "refused",
    [
        errors.TooManySessions("full", field="sessions", retry_after_s=2.5),
        errors.PromptTooLong("no", field="max_tokens"),
    ],
)
async def test_a_refused_open_raises_the_same_error_at_the_device(
    pair: conftest.TokenPair, refused: errors.MillinerError
) -> None:
    pair.cloud.refuse_open = refused
    with pytest.raises(type(refused), match=refused.message) as caught:
        await pair.transport.open(toy_tokens.token_open())
    assert caught.value.field == refused.field
    if isinstance(caught.value, errors.CapacityError):
        assert caught.value.retry_after_s == 2.5


async def test_a_failure_in_mid_answer_comes_behind_the_tokens_before_it(pair: conftest.TokenPair) -> None:
    pair.cloud.fail_at[3] = errors.UnavailableError("the accelerator hangs", field="cloud")
    stream = await pair.transport.open(toy_tokens.token_open())
    assert [(await stream.receive()).index for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(errors.UnavailableError, match="accelerator hangs"):
            await stream.receive()
    with pytest.raises(errors.UnavailableError, match="accelerator hangs"):
        await stream.set_limit(9)
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    await stream.close()


@pytest.mark.parametrize(
    ("keep_share", "kept", "why"),
    [
        (1.0, ((0, 3),), "not to be refined"),
        (0.6, ((0, 1), (2, 4)), "outside a prompt of 3"),
        (0.6, ((0, 3),), "at most 2"),
        (0.9, ((0, 1), (1, 2)), "last position is missing"),
        (0.9, ((0, 1), (2, 3)), None),
        (0.1, ((1, 3),), "was to be kept and is missing"),
    ],
    ids=["unasked", "outside", "too-many", "without-the-last", "good", "unprotected"],
)
async def test_a_refined_prompt_that_was_not_asked_for_so_is_a_broken_cloud(
    pair: conftest.TokenPair, keep_share: float, kept: tuple[tuple[int, int], ...], why: str | None
) -> None:
    pair.cloud.kept = kept
    request = dataclasses.replace(toy_tokens.token_open(), keep_share=keep_share, keep_spans=((0, 1),))
    stream = await pair.transport.open(request)
    if why is None:
        assert (await stream.receive()).kept == kept
    else:
        with pytest.raises(errors.ProtocolError, match=why) as caught:
            await stream.receive()
        assert caught.value.field == "kept"
    await stream.close()


@pytest.mark.parametrize("where", ["open", "token", "limit"])
async def test_a_bug_in_the_service_ends_one_stream_without_telling_its_text(
    pair: conftest.TokenPair, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    bug = RuntimeError("secret of the cloud")
    pair.cloud.step_s = 0.001
    pair.cloud.refuse_open = bug if where == "open" else None
    pair.cloud.refuse_limit = bug if where == "limit" else None
    pair.cloud.fail_at = {2: bug} if where == "token" else {}

    async def answer() -> None:
        stream = await pair.transport.open(toy_tokens.token_open(max_tokens=LONG))
        await stream.set_limit(LONG - 1)
        await toy_tokens.the_rest(stream)

    with pytest.raises(errors.UnavailableError, match="failed internally"):
        await answer()
    assert "secret of the cloud" in caplog.text


async def test_a_device_that_does_not_read_stops_its_generation_and_then_loses_its_session() -> None:
    """Without an end the cloud would hold its memory for as long as the device pleases."""
    cloud = toy_tokens.ToyTokens()
    small_window: options.ChannelOptions = [*RAW, ("grpc.http2.bdp_probe", 0)]  # 64 KiB for good: soon full
    async with (
        conftest.token_pair(cloud, limits=token_server.TokenLimits(taken_within_s=0.4)) as pair,
        raw_call(pair.server.port, chosen=small_window) as call,
    ):
        await call.write(open_message())
        bystander = await pair.transport.open(toy_tokens.token_open("bystander"))
        assert len(await toy_tokens.the_rest(bystander)) == 5
        await conftest.eventually(lambda: "raw" in cloud.closed)
        assert 16 < cloud.given["raw"] < 10_000  # the window's worth, and what may be ahead
        async with asyncio.timeout(5):
            _, code = await refusal(call)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        await bystander.close()


async def test_a_device_that_vanishes_frees_its_session(pair: conftest.TokenPair) -> None:
    pair.cloud.gate.clear()
    async with over_link(pair) as (transport, link):
        stream = await transport.open(toy_tokens.token_open())
        await conftest.eventually(lambda: pair.cloud.given == {"s1": 1})
        link.drop_connections()
        with pytest.raises(errors.UnavailableError):
            await stream.receive()
        await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
        assert pair.cloud.ended == ["s1"]
        await stream.close()


async def test_a_silent_cloud_is_found_within_two_seconds(pair: conftest.TokenPair) -> None:
    """The promise of `options.HEARTBEAT`; half a second more for a busy test machine."""
    pair.cloud.step_s = 0.01
    async with over_link(pair) as (transport, link):
        stream = await transport.open(toy_tokens.token_open(max_tokens=LONG))
        await stream.receive()
        link.cut()
        started_s = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            await toy_tokens.the_rest(stream)
        assert time.monotonic() - started_s < 2.5
        await stream.close()


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_cloud_that_is_killed_or_stopped_is_noticed_and_no_token_comes_twice(death: signal.Signals) -> None:
    async with (
        test_faults.cloud_process() as (process, port),
        client.GrpcTokenTransport([f"127.0.0.1:{port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_tokens.token_open(max_tokens=LONG))
        received = [await stream.receive() for _ in range(5)]
        process.send_signal(death)
        started_s = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            await toy_tokens.follow(stream, received)
        assert time.monotonic() - started_s < 2.5
        assert [token.index for token in received] == list(range(len(received)))
        await stream.close()


async def test_another_replica_takes_the_rest(pair: conftest.TokenPair) -> None:
    cloud = toy_tokens.ToyTokens(step_s=0.01)
    async with await server.serve(tokens=cloud) as lost:
        targets = [f"127.0.0.1:{lost.port}", f"127.0.0.1:{pair.server.port}"]
        async with client.GrpcTokenTransport(targets, timeouts=conftest.TIMEOUTS) as transport:
            stream = await transport.open(toy_tokens.token_open(max_tokens=LONG))
            assert stream.endpoint == targets[0]
            await stream.receive()
            await lost.stop()
            with pytest.raises(errors.UnavailableError):
                await toy_tokens.the_rest(stream)
            again = await transport.open(toy_tokens.token_open("again"))
            assert again.endpoint == targets[1]
            assert len(await toy_tokens.the_rest(again)) == 5
            await stream.close()
            await again.close()


async def test_a_draining_replica_takes_no_new_session_and_finishes_old_ones(pair: conftest.TokenPair) -> None:
    pair.cloud.gate.clear()
    stream = await pair.transport.open(toy_tokens.token_open())
    await pair.server.drain()
    with pytest.raises(errors.UnavailableError, match="shutting down"):
        await pair.transport.open(toy_tokens.token_open("s2"))
    pair.cloud.gate.set()
    assert len(await toy_tokens.the_rest(stream)) == 5
    await stream.close()


async def test_a_long_prompt_on_a_slow_link_is_waited_for_and_tokens_follow_a_round_trip_later(
    pair: conftest.TokenPair,
) -> None:
    """300 kB at 200 kB/s: longer than an Open without a prompt may take."""
    conditions = emulated_link.LinkConditions(uplink_bytes_per_s=2e5, downlink_bytes_per_s=2e5, round_trip_s=0.1)
    impatient = dataclasses.replace(conftest.TIMEOUTS, open_s=1.0)
    async with (
        emulated_link.EmulatedLink("127.0.0.1", pair.server.port, conditions) as link,
        client.GrpcTokenTransport([f"127.0.0.1:{link.port}"], timeouts=impatient) as transport,
    ):
        await transport.wait_ready(5.0)
        started_s = time.monotonic()
        stream = await transport.open(toy_tokens.token_open(prompt=tuple(range(30_000, 130_000)), max_tokens=3))
        assert len(await toy_tokens.the_rest(stream)) == 3
        assert 1.4 < time.monotonic() - started_s < 3.0
        await stream.close()


async def test_tokens_pass_mutual_tls_and_no_stranger_does(tmp_path: pathlib.Path) -> None:
    cloud, device = certificates.tiers(tmp_path, certificates.authority("topology chat"))
    credentials = tls.Identity(cloud.files).server_credentials()
    async with await server.serve(tokens=toy_tokens.ToyTokens(), credentials=credentials) as running:
        target = f"127.0.0.1:{running.port}"
        identity = tls.Identity(device.files)
        async with client.GrpcTokenTransport([target], timeouts=conftest.TIMEOUTS, identity=identity) as transport:
            assert await transport.why_unreachable() == ""
            stream = await transport.open(toy_tokens.token_open())
            assert len(await toy_tokens.the_rest(stream)) == 5
            await stream.close()
        async with client.GrpcTokenTransport([target], timeouts=conftest.TIMEOUTS) as stranger:
            with pytest.raises(errors.UnavailableError):
                await stranger.open(toy_tokens.token_open("s2"))


async def test_a_token_out_of_order_ends_the_stream(pair: conftest.TokenPair) -> None:
    """A cloud that skips or repeats one must not make a device show a wrong answer."""

    class Skipping(toy_tokens.ToyTokens):
        async def generate(self, session_id: str):  # type: ignore[no-untyped-def]
            async for token in super().generate(session_id):
                yield dataclasses.replace(token, index=token.index + (token.index > 1))

    async with conftest.token_pair(Skipping()) as skipping:
        stream = await skipping.transport.open(toy_tokens.token_open())
        with pytest.raises(errors.ProtocolError, match="owed token 2"):
            await toy_tokens.the_rest(stream)
        await conftest.eventually(lambda: skipping.cloud.closed == ["s1"])
        await stream.close()


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
async def test_a_duration_that_is_none_ends_the_stream(seconds: float) -> None:
    """It would be in every estimate of the device from then on."""

    class Untimed(toy_tokens.ToyTokens):
        async def generate(self, session_id: str):  # type: ignore[no-untyped-def]
            async for token in super().generate(session_id):
                yield dataclasses.replace(token, step=dataclasses.replace(token.step, compute_s=seconds))

    async with conftest.token_pair(Untimed()) as untimed:
        stream = await untimed.transport.open(toy_tokens.token_open())
        with pytest.raises(errors.ProtocolError) as caught:
            await stream.receive()
        assert caught.value.field == "compute_s"
        await stream.close()


async def test_failed_openings_leave_no_connection_behind_that_goes_on_trying() -> None:
    """Errors and the frames that they name held closed channels: all of them connected when the cloud was back."""

    def connections() -> int:
        return sum(issubclass(type(each), grpc.aio.Channel) for each in gc.get_objects())

    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        transport = client.GrpcTokenTransport([f"127.0.0.1:{nobody.getsockname()[1]}"], timeouts=conftest.TIMEOUTS)
        async with transport:
            gc.collect()
            gc.disable()
            try:
                found = []
                for number in range(6):
                    with pytest.raises(errors.UnavailableError):
                        await transport.open(toy_tokens.token_open(f"s{number}", max_tokens=1))
                    assert await transport.why_unreachable()
                    found.append(connections())
            finally:
                gc.enable()
            assert found[-1] <= found[0] + 1, found
