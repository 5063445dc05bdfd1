from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_FLOAT32: _ClassVar[Codec]
    CODEC_BFLOAT16: _ClassVar[Codec]
    CODEC_FLOAT16: _ClassVar[Codec]
    CODEC_INT8: _ClassVar[Codec]
    CODEC_INT4: _ClassVar[Codec]

class FrameKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_KIND_UNSPECIFIED: _ClassVar[FrameKind]
    FRAME_KIND_VERIFY: _ClassVar[FrameKind]
    FRAME_KIND_LAST_CHUNK: _ClassVar[FrameKind]
    FRAME_KIND_CHUNK: _ClassVar[FrameKind]

class ReplyPositions(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLY_POSITIONS_UNSPECIFIED: _ClassVar[ReplyPositions]
    REPLY_POSITIONS_NONE: _ClassVar[ReplyPositions]
    REPLY_POSITIONS_LAST: _ClassVar[ReplyPositions]
    REPLY_POSITIONS_ALL: _ClassVar[ReplyPositions]
CODEC_UNSPECIFIED: Codec
CODEC_FLOAT32: Codec
CODEC_BFLOAT16: Codec
CODEC_FLOAT16: Codec
CODEC_INT8: Codec
CODEC_INT4: Codec
FRAME_KIND_UNSPECIFIED: FrameKind
FRAME_KIND_VERIFY: FrameKind
FRAME_KIND_LAST_CHUNK: FrameKind
FRAME_KIND_CHUNK: FrameKind
REPLY_POSITIONS_UNSPECIFIED: ReplyPositions
REPLY_POSITIONS_NONE: ReplyPositions
REPLY_POSITIONS_LAST: ReplyPositions
REPLY_POSITIONS_ALL: ReplyPositions

class DeviceMessage(_message.Message):
    __slots__ = ("open", "frame")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    open: Open
    frame: Frame
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class CloudMessage(_message.Message):
    __slots__ = ("opened", "reply", "error")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    reply: Reply
    error: Error
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., error: _Optional[_Union[Error, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("protocol_version", "session_id", "model_digest", "slice_start", "slice_end", "hidden_size", "max_positions", "traceparent", "claim")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SLICE_START_FIELD_NUMBER: _ClassVar[int]
    SLICE_END_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    session_id: str
    model_digest: str
    slice_start: int
    slice_end: int
    hidden_size: int
    max_positions: int
    traceparent: str
    claim: str
    def __init__(self, protocol_version: _Optional[int] = ..., session_id: _Optional[str] = ..., model_digest: _Optional[str] = ..., slice_start: _Optional[int] = ..., slice_end: _Optional[int] = ..., hidden_size: _Optional[int] = ..., max_positions: _Optional[int] = ..., traceparent: _Optional[str] = ..., claim: _Optional[str] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("session_id", "max_frame_tokens", "load", "max_positions")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    MAX_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    max_frame_tokens: int
    load: Load
    max_positions: int
    def __init__(self, session_id: _Optional[str] = ..., max_frame_tokens: _Optional[int] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., max_positions: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("session_id", "round", "commit_pos", "start_pos", "kind", "payloads", "reply_positions", "reply_codec", "traceparent")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    COMMIT_POS_FIELD_NUMBER: _ClassVar[int]
    START_POS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    REPLY_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    REPLY_CODEC_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    round: int
    commit_pos: int
    start_pos: int
    kind: FrameKind
    payloads: _containers.RepeatedCompositeFieldContainer[Payload]
    reply_positions: ReplyPositions
    reply_codec: Codec
    traceparent: str
    def __init__(self, session_id: _Optional[str] = ..., round: _Optional[int] = ..., commit_pos: _Optional[int] = ..., start_pos: _Optional[int] = ..., kind: _Optional[_Union[FrameKind, str]] = ..., payloads: _Optional[_Iterable[_Union[Payload, _Mapping]]] = ..., reply_positions: _Optional[_Union[ReplyPositions, str]] = ..., reply_codec: _Optional[_Union[Codec, str]] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Payload(_message.Message):
    __slots__ = ("codec", "num_tokens", "data")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    codec: Codec
    num_tokens: int
    data: bytes
    def __init__(self, codec: _Optional[_Union[Codec, str]] = ..., num_tokens: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("session_id", "round", "start_pos", "kv_len", "payload", "queue_s", "compute_s", "codec_s", "batched_tokens", "load")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    START_POS_FIELD_NUMBER: _ClassVar[int]
    KV_LEN_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    CODEC_S_FIELD_NUMBER: _ClassVar[int]
    BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    round: int
    start_pos: int
    kv_len: int
    payload: Payload
    queue_s: float
    compute_s: float
    codec_s: float
    batched_tokens: int
    load: Load
    def __init__(self, session_id: _Optional[str] = ..., round: _Optional[int] = ..., start_pos: _Optional[int] = ..., kv_len: _Optional[int] = ..., payload: _Optional[_Union[Payload, _Mapping]] = ..., queue_s: _Optional[float] = ..., compute_s: _Optional[float] = ..., codec_s: _Optional[float] = ..., batched_tokens: _Optional[int] = ..., load: _Optional[_Union[Load, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("delay_fixed_s", "delay_per_token_s", "other_tokens", "running_sessions", "waiting_frames", "kv_used_share", "max_chunk_tokens")
    DELAY_FIXED_S_FIELD_NUMBER: _ClassVar[int]
    DELAY_PER_TOKEN_S_FIELD_NUMBER: _ClassVar[int]
    OTHER_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FRAMES_FIELD_NUMBER: _ClassVar[int]
    KV_USED_SHARE_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    delay_fixed_s: float
    delay_per_token_s: float
    other_tokens: float
    running_sessions: int
    waiting_frames: int
    kv_used_share: float
    max_chunk_tokens: int
    def __init__(self, delay_fixed_s: _Optional[float] = ..., delay_per_token_s: _Optional[float] = ..., other_tokens: _Optional[float] = ..., running_sessions: _Optional[int] = ..., waiting_frames: _Optional[int] = ..., kv_used_share: _Optional[float] = ..., max_chunk_tokens: _Optional[int] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("name", "field", "message", "retry_after_s", "final", "round", "start_pos")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    START_POS_FIELD_NUMBER: _ClassVar[int]
    name: str
    field: str
    message: str
    retry_after_s: float
    final: bool
    round: int
    start_pos: int
    def __init__(self, name: _Optional[str] = ..., field: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_s: _Optional[float] = ..., final: bool = ..., round: _Optional[int] = ..., start_pos: _Optional[int] = ...) -> None: ...
