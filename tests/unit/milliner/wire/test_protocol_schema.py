"""The generated code is that of the committed schema, and every value type crosses it unharmed."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from milliner.contract import proto
from milliner.contract.proto import hidden_states_pb2 as pb
from milliner.contract.proto import tokens_pb2
from milliner.core import errors, generation, types
from milliner.wire import messages, options, token_messages

SERVICES = pathlib.Path(proto.__file__).parents[3]


@pytest.mark.parametrize("module", [pb, tokens_pb2], ids=["hidden_states", "tokens"])
def test_generated_code_is_that_of_the_schema(module: Any, tmp_path: pathlib.Path) -> None:
    """Compares descriptors, so that the compiler's version does not matter. `make proto` regenerates."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools (extra dev) is not installed")
    target = tmp_path / "descriptors"
    name = module.DESCRIPTOR.name
    assert protoc.main(["protoc", f"-I{SERVICES}", f"--descriptor_set_out={target}", str(SERVICES / name)]) == 0
    compiled = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes()).file[0]
    committed = descriptor_pb2.FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
    for message in compiled.message_type:
        for field in message.field:
            field.ClearField("json_name")  # written by the compiler, left out of generated code
    assert compiled == committed


def test_every_enum_value_has_a_number_of_its_own_name() -> None:
    for enum, prefix, members in (
        (pb.Codec, "CODEC_", types.Codec),
        (pb.FrameKind, "FRAME_KIND_", types.FrameKind),
        (pb.ReplyPositions, "REPLY_POSITIONS_", types.ReplyPositions),
    ):
        names = {name.removeprefix(prefix) for name in enum.keys()}  # noqa: SIM118  # a protobuf enum is no dict
        assert names == {"UNSPECIFIED", *(member.name for member in members)}


@pytest.mark.parametrize("codec", list(types.Codec))
@pytest.mark.parametrize("kind", list(types.FrameKind))
@pytest.mark.parametrize("reply_positions", list(types.ReplyPositions))
def test_a_frame_crosses_the_wire(
    codec: types.Codec, kind: types.FrameKind, reply_positions: types.ReplyPositions
) -> None:
    frame = types.HiddenFrame(
        session_id="s",
        round=2**31,
        commit_pos=7,
        start_pos=9,
        kind=kind,
        payloads=(types.Payload(codec, 3, b"\x00\xff"), types.Payload(types.Codec.FLOAT16, 1, b"")),
        reply_positions=reply_positions,
        reply_codec=codec,
        traceparent="00-a-b-01",
    )
    assert messages.parse_device_message(messages.write_frame(frame)) == frame


@pytest.mark.parametrize("field", ["session_id", "claim"])
def test_names_that_are_too_long_are_refused(field: str) -> None:
    request = types.SessionOpen("s", "sha256:ab", 2, 32, 4096, 8192)
    names: dict[str, Any] = {field: "x" * messages.MAX_SESSION_ID_CHARACTERS}
    longest = dataclasses.replace(request, **names)
    assert messages.parse_device_message(messages.write_open(longest)) == longest
    names[field] += "x"
    too_long = dataclasses.replace(request, **names)
    with pytest.raises(errors.ProtocolError) as refusal:
        messages.parse_device_message(messages.write_open(too_long))
    assert refusal.value.field == field


def test_open_opened_and_reply_cross_the_wire() -> None:
    load = types.LoadReport(0.024, 0.00021, 17.5, 3, 4, 0.25, 512)
    opened = types.SessionOpened("s", 2048, load, max_positions=640)
    request = types.SessionOpen("s", "sha256:ab", 2, 32, 4096, 8192, "00-a-b-01", 1, "c")
    payload = types.Payload(types.Codec.INT8, 1, b"12")
    replies = [
        types.HiddenReply("s", 1, 2, 3, payload, 0.1, 0.2, 5, load, 0.3),
        types.HiddenReply("s", 0, 0, 0, None, 0.0, 0.0, 0, types.LoadReport()),
    ]
    assert messages.parse_device_message(messages.write_open(request)) == request
    assert messages.parse_cloud_message(messages.write_opened(opened)) == opened
    for reply in replies:
        assert messages.parse_cloud_message(messages.write_reply(reply)) == reply


def generation_open(**changes: Any) -> generation.GenerationOpen:
    sampler = generation.Sampler(types.SamplingParams(temperature=0.7, top_p=0.9, top_k=40), seed=-(2**63))
    request = generation.GenerationOpen("s", "sha256:ab", "sha256:cd", (2**32 - 1, 0, 7), 5, sampler)
    return dataclasses.replace(request, **changes)


@pytest.mark.parametrize("num_logprobs", [None, 0, 20])
def test_an_open_of_tokens_crosses_the_wire(num_logprobs: int | None) -> None:
    sampler = generation.Sampler(types.SamplingParams(), seed=2**63 - 1, num_logprobs=num_logprobs)
    for request in (
        generation_open(),
        generation_open(keep_share=0.25, keep_spans=((0, 1), (2, 3))),
        generation_open(sampler=sampler, stop_token_ids=frozenset({2, 9}), traceparent="00-a-b-01", claim="c"),
    ):
        assert token_messages.parse_device_message(token_messages.write_open(request)) == request


def test_limit_opened_and_token_cross_the_wire() -> None:
    load = types.LoadReport(0.024, 0.00021, 17.5, 3, 4, 0.25, 512)
    opened = generation.GenerationOpened("s", "sha256:ab", load, max_positions=640, cached_tokens=96)
    assert token_messages.parse_device_message(token_messages.write_limit(0)) == token_messages.Limit(0)
    assert token_messages.parse_cloud_message(token_messages.write_opened(opened)) == opened
    for logprob, top in ((None, ()), (-0.1, ()), (0.0, ((1, -0.25), (2**32 - 1, -1e9)))):
        emitted = types.EmittedToken(7, types.TokenOrigin.CLOUD, logprob, top)
        token = generation.CloudToken(3, generation.Step(emitted, 0.1, 0.2, 5), last=logprob is None)
        assert token_messages.parse_cloud_message(token_messages.write_token(token)) == token
        first = dataclasses.replace(token, index=0, kept=((0, 4), (9, 2**20)))
        assert token_messages.parse_cloud_message(token_messages.write_token(first)) == first
        with pytest.raises(errors.ProtocolError, match="belongs to the first"):
            token_messages.parse_cloud_message(token_messages.write_token(dataclasses.replace(first, index=1)))


def test_a_prompt_that_is_too_long_to_send_is_named_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_messages, "MAX_PROMPT_TOKENS", 3)
    token_messages.check_prompt(3)
    with pytest.raises(errors.PromptTooLong, match="at most 3"):
        token_messages.check_prompt(4)
    longer = token_messages.write_open(generation_open(prompt_ids=(1, 2, 3, 4)))
    with pytest.raises(errors.PromptTooLong) as refusal:
        token_messages.parse_device_message(longer)
    assert refusal.value.field == "prompt_ids"


def test_the_longest_prompt_fits_into_a_message() -> None:
    assert token_messages.MAX_PROMPT_TOKENS * 5 < options.MAX_PAYLOAD_BYTES  # a varint of 32 bits: five bytes
