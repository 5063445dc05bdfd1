"""Protobuf messages of the hidden-state stream to value types and back: the only module that knows both.

What comes from a peer is checked here as far as one message alone can tell (enums, required texts, no empty frame);
limits that need the session are the stream's and the engine's to check. Errors are `ProtocolError`s with the field.
"""

from __future__ import annotations

from google.protobuf import message as protobuf_message

from milliner.contract.proto import hidden_states_pb2 as pb
from milliner.core import errors, types

SERVICE = pb.DESCRIPTOR.services_by_name["HiddenStates"].full_name
SESSION_METHOD = f"/{SERVICE}/Session"

MAX_SESSION_ID_CHARACTERS = 256  # arbitrary: many times 128 random bits, and little to remember; of claims too

_CODECS = {
    types.Codec.FLOAT32: pb.CODEC_FLOAT32,
    types.Codec.BFLOAT16: pb.CODEC_BFLOAT16,
    types.Codec.FLOAT16: pb.CODEC_FLOAT16,
    types.Codec.INT8: pb.CODEC_INT8,
    types.Codec.INT4: pb.CODEC_INT4,
}
_KINDS = {
    types.FrameKind.VERIFY: pb.FRAME_KIND_VERIFY,
    types.FrameKind.LAST_CHUNK: pb.FRAME_KIND_LAST_CHUNK,
    types.FrameKind.CHUNK: pb.FRAME_KIND_CHUNK,
}
_REPLY_POSITIONS = {
    types.ReplyPositions.NONE: pb.REPLY_POSITIONS_NONE,
    types.ReplyPositions.LAST: pb.REPLY_POSITIONS_LAST,
    types.ReplyPositions.ALL: pb.REPLY_POSITIONS_ALL,
}
_CODEC_OF: dict[int, types.Codec] = {number: codec for codec, number in _CODECS.items()}
_KIND_OF: dict[int, types.FrameKind] = {number: kind for kind, number in _KINDS.items()}
_REPLY_POSITIONS_OF: dict[int, types.ReplyPositions] = {
    number: positions for positions, number in _REPLY_POSITIONS.items()
}


def parse_device_message(data: bytes) -> types.SessionOpen | types.HiddenFrame:
    """A device's message from its bytes. Raises `ProtocolError` for bytes that are none."""
    message = pb.DeviceMessage()
    parse_into(message, data)
    match message.WhichOneof("body"):
        case "open":
            return _read_open(message.open)
        case "frame":
            return _read_frame(message.frame)
    raise errors.ProtocolError("found neither Open nor Frame in the message", field="body")


def parse_cloud_message(data: bytes) -> types.SessionOpened | types.HiddenReply | pb.Error:
    """A cloud's message from its bytes; an error stays a message for `wire.status`. Raises `ProtocolError`."""
    message = pb.CloudMessage()
    parse_into(message, data)
    match message.WhichOneof("body"):
        case "opened":
            return _read_opened(message.opened)
        case "reply":
            return _read_reply(message.reply)
        case "error":
            return message.error
    raise errors.ProtocolError("found neither Opened, Reply nor Error in the message", field="body")


def write_open(request: types.SessionOpen) -> bytes:
    """The first message up."""
    body = pb.Open(
        protocol_version=request.protocol_version,
        session_id=request.session_id,
        model_digest=request.model_digest,
        slice_start=request.slice_start,
        slice_end=request.slice_end,
        hidden_size=request.hidden_size,
        max_positions=request.max_positions,
        traceparent=request.traceparent,
        claim=request.claim,
    )
    return pb.DeviceMessage(open=body).SerializeToString()


def write_frame(frame: types.HiddenFrame) -> bytes:
    """A frame with its payloads."""
    body = pb.Frame(
        session_id=frame.session_id,
        round=frame.round,
        commit_pos=frame.commit_pos,
        start_pos=frame.start_pos,
        kind=_KINDS[frame.kind],
        payloads=[_write_payload(payload) for payload in frame.payloads],
        reply_positions=_REPLY_POSITIONS[frame.reply_positions],
        reply_codec=_CODECS[frame.reply_codec],
        traceparent=frame.traceparent,
    )
    return pb.DeviceMessage(frame=body).SerializeToString()


def write_opened(opened: types.SessionOpened) -> bytes:
    """The first message down."""
    body = pb.Opened(
        session_id=opened.session_id,
        max_frame_tokens=opened.max_frame_tokens,
        load=write_load(opened.load),
        max_positions=opened.max_positions,
    )
    return pb.CloudMessage(opened=body).SerializeToString()


def write_reply(reply: types.HiddenReply) -> bytes:
    """A reply, with its payload if the frame asked for positions."""
    body = pb.Reply(
        session_id=reply.session_id,
        round=reply.round,
        start_pos=reply.start_pos,
        kv_len=reply.kv_len,
        payload=None if reply.payload is None else _write_payload(reply.payload),
        queue_s=reply.queue_s,
        compute_s=reply.compute_s,
        codec_s=reply.codec_s,
        batched_tokens=reply.batched_tokens,
        load=write_load(reply.load),
    )
    return pb.CloudMessage(reply=body).SerializeToString()


def parse_into(message: protobuf_message.Message, data: bytes) -> None:
    """Reads `data` into an empty message. Raises `ProtocolError` for bytes that are none."""
    try:
        message.ParseFromString(data)
    except protobuf_message.DecodeError as error:
        raise errors.ProtocolError(
            f"{len(data)} bytes are no {message.DESCRIPTOR.full_name}: {error}", field="message"
        ) from error


def check_version(version: int) -> None:
    """Raises `VersionMismatch` for a device of another protocol version."""
    if version != types.PROTOCOL_VERSION:
        raise errors.VersionMismatch(
            f"the device speaks version {version}, the cloud {types.PROTOCOL_VERSION}: "
            "run the same release on both tiers",
            field="protocol_version",
        )


def check_names(session_id: str, *, claim: str) -> None:
    """What every Open must keep to. Raises `ProtocolError`."""
    if not session_id:
        raise errors.ProtocolError("is empty: send an unguessable id", field="session_id")
    for field, name in (("session_id", session_id), ("claim", claim)):
        if len(name) > MAX_SESSION_ID_CHARACTERS:
            raise errors.ProtocolError(
                f"has {len(name)} characters: send at most {MAX_SESSION_ID_CHARACTERS}", field=field
            )


def write_load(load: types.LoadReport) -> pb.Load:
    """A replica's load."""
    return pb.Load(
        delay_fixed_s=load.delay_fixed_s,
        delay_per_token_s=load.delay_per_token_s,
        other_tokens=load.other_tokens,
        running_sessions=load.running_sessions,
        waiting_frames=load.waiting_frames,
        kv_used_share=load.kv_used_share,
        max_chunk_tokens=load.max_chunk_tokens,
    )


def read_load(message: pb.Load) -> types.LoadReport:
    """A replica's load."""
    return types.LoadReport(
        delay_fixed_s=message.delay_fixed_s,
        delay_per_token_s=message.delay_per_token_s,
        other_tokens=message.other_tokens,
        running_sessions=message.running_sessions,
        waiting_frames=message.waiting_frames,
        kv_used_share=message.kv_used_share,
        max_chunk_tokens=message.max_chunk_tokens,
    )


def _read_open(message: pb.Open) -> types.SessionOpen:
    check_names(message.session_id, claim=message.claim)
    return types.SessionOpen(
        session_id=message.session_id,
        model_digest=message.model_digest,
        slice_start=message.slice_start,
        slice_end=message.slice_end,
        hidden_size=message.hidden_size,
        max_positions=message.max_positions,
        traceparent=message.traceparent,
        protocol_version=message.protocol_version,
        claim=message.claim,
    )


def _read_frame(message: pb.Frame) -> types.HiddenFrame:
    if not message.payloads:
        raise errors.ShapeMismatch("a frame carries at least one payload, found none", field="payloads")
    if message.kind not in _KIND_OF:
        raise errors.ProtocolError(f"unknown frame kind {message.kind}", field="kind")
    if message.reply_positions not in _REPLY_POSITIONS_OF:
        raise errors.ProtocolError(f"unknown value {message.reply_positions}", field="reply_positions")
    return types.HiddenFrame(
        session_id=message.session_id,
        round=message.round,
        commit_pos=message.commit_pos,
        start_pos=message.start_pos,
        kind=_KIND_OF[message.kind],
        payloads=tuple(
            _read_payload(payload, field=f"payloads[{index}]") for index, payload in enumerate(message.payloads)
        ),
        reply_positions=_REPLY_POSITIONS_OF[message.reply_positions],
        reply_codec=_read_codec(message.reply_codec, field="reply_codec"),
        traceparent=message.traceparent,
    )


def _read_opened(message: pb.Opened) -> types.SessionOpened:
    return types.SessionOpened(
        session_id=message.session_id,
        max_frame_tokens=message.max_frame_tokens,
        load=read_load(message.load),
        max_positions=message.max_positions,
    )


def _read_reply(message: pb.Reply) -> types.HiddenReply:
    return types.HiddenReply(
        session_id=message.session_id,
        round=message.round,
        start_pos=message.start_pos,
        kv_len=message.kv_len,
        payload=_read_payload(message.payload, field="payload") if message.HasField("payload") else None,
        queue_s=message.queue_s,
        compute_s=message.compute_s,
        batched_tokens=message.batched_tokens,
        load=read_load(message.load),
        codec_s=message.codec_s,
    )


def _write_payload(payload: types.Payload) -> pb.Payload:
    return pb.Payload(codec=_CODECS[payload.codec], num_tokens=payload.num_tokens, data=payload.data)


def _read_payload(message: pb.Payload, *, field: str) -> types.Payload:
    return types.Payload(
        codec=_read_codec(message.codec, field=f"{field}.codec"), num_tokens=message.num_tokens, data=message.data
    )


def _read_codec(number: int, *, field: str) -> types.Codec:
    codec = _CODEC_OF.get(number)
    if codec is None:
        known = ", ".join(f"{number} {codec}" for number, codec in sorted(_CODEC_OF.items()))
        raise errors.DtypeMismatch(f"unknown codec {number}: write one of {known}", field=field)
    return codec
