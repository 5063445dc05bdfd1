"""Protobuf messages of the token stream to value types and back: the only module that knows both.

What comes from a peer is checked here as far as one message alone can tell; whether prompt, tokens and limits fit the
model is the service's to check. Errors are `ProtocolError`s with the field, and `PromptTooLong` for what no message
carries. `sampler.params.seed` does not travel: `sampler.seed` is the one that counts.
"""

from __future__ import annotations

import dataclasses
import math

from milliner.contract.proto import tokens_pb2
from milliner.core import errors, generation, types
from milliner.wire import messages, status, token_spans

SERVICE = tokens_pb2.DESCRIPTOR.services_by_name["Tokens"].full_name
SESSION_METHOD = f"/{SERVICE}/Session"

MAX_PROMPT_TOKENS = 4 << 20  # arbitrary, beyond any context: 20 MiB at most, far below a message's limit
MAX_STOP_TOKENS = 4096  # arbitrary, like the next: many times what the HTTP interface takes
MAX_TOP_LOGPROBS = 256
MAX_SALT_CHARACTERS = 1024
_MOST_TOP_K = 2**32 - 1  # that a message carries: all of any vocabulary


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    """The number of tokens that the cloud is to generate, of the whole session."""

    max_tokens: int


def parse_device_message(data: bytes) -> generation.GenerationOpen | Limit:
    """A device's message from its bytes. Raises `ProtocolError`, `VersionMismatch` and `PromptTooLong`."""
    message = tokens_pb2.TokensDeviceMessage()
    messages.parse_into(message, data)
    match message.WhichOneof("body"):
        case "open":
            return _read_open(message.open)
        case "limit":
            if message.limit.max_tokens < 0:
                raise errors.ProtocolError(f"found {message.limit.max_tokens}: send 0 or more", field="max_tokens")
            return Limit(message.limit.max_tokens)
    raise errors.ProtocolError("found neither Open nor Limit in the message", field="body")


def parse_cloud_message(data: bytes) -> generation.GenerationOpened | generation.CloudToken:
    """A cloud's message from its bytes. Raises the error that it carries, and `ProtocolError`."""
    message = tokens_pb2.TokensCloudMessage()
    messages.parse_into(message, data)
    match message.WhichOneof("body"):
        case "opened":
            return _read_opened(message.opened)
        case "token":
            return _read_token(message.token)
        case "error":
            raise status.read_error(message.error)
    raise errors.ProtocolError("found neither Opened, Token nor Error in the message", field="body")


def check_prompt(num_tokens: int) -> None:
    """Raises `ProtocolError` or `PromptTooLong` for a prompt that no cloud would read."""
    if num_tokens == 0:
        raise errors.ProtocolError("is empty: send at least one token", field="prompt_ids")
    if num_tokens > MAX_PROMPT_TOKENS:
        raise errors.PromptTooLong(
            f"{num_tokens} tokens in one prompt, at most {MAX_PROMPT_TOKENS} cross the wire", field="prompt_ids"
        )


def write_open(request: generation.GenerationOpen) -> bytes:
    """The first message up."""
    params = request.sampler.params
    body = tokens_pb2.TokensOpen(
        protocol_version=types.PROTOCOL_VERSION,
        session_id=request.session_id,
        model_digest=request.model_digest,
        tokenizer_digest=request.tokenizer_digest,
        prompt_ids=request.prompt_ids,
        max_tokens=request.max_tokens,
        sampling=tokens_pb2.Sampling(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=min(params.top_k, _MOST_TOP_K),
            seed=request.sampler.seed,
            num_logprobs=request.sampler.num_logprobs,
        ),
        stop_token_ids=sorted(request.stop_token_ids),
        traceparent=request.traceparent,
        claim=request.claim,
        salt=request.salt,
        keep_share=request.keep_share if request.keep_share < 1.0 else None,
        keep_spans=token_spans.write(request.keep_spans),
    )
    return tokens_pb2.TokensDeviceMessage(open=body).SerializeToString()


def write_limit(max_tokens: int) -> bytes:
    """A new limit."""
    return tokens_pb2.TokensDeviceMessage(limit=tokens_pb2.TokensLimit(max_tokens=max_tokens)).SerializeToString()


def write_opened(opened: generation.GenerationOpened) -> bytes:
    """The first message down."""
    body = tokens_pb2.TokensOpened(
        session_id=opened.session_id,
        model_digest=opened.model_digest,
        load=messages.write_load(opened.load),
        max_positions=opened.max_positions,
        cached_tokens=opened.cached_tokens,
    )
    return tokens_pb2.TokensCloudMessage(opened=body).SerializeToString()


def write_token(token: generation.CloudToken) -> bytes:
    """A token. Its origin does not travel: it is the cloud."""
    step, emitted = token.step, token.step.token
    body = tokens_pb2.Token(
        index=token.index,
        token_id=emitted.token_id,
        logprob=emitted.logprob,
        top_logprobs=[tokens_pb2.Likely(token_id=likely, logprob=logprob) for likely, logprob in emitted.top_logprobs],
        queue_s=step.queue_s,
        compute_s=step.compute_s,
        batched_tokens=step.batched_tokens,
        last=token.last,
        kept=token_spans.write(token.kept or ()),
    )
    return tokens_pb2.TokensCloudMessage(token=body).SerializeToString()


def write_error(error: errors.MillinerError) -> bytes:
    """The last message down of a session that failed."""
    return tokens_pb2.TokensCloudMessage(error=status.error_message(error, final=True)).SerializeToString()


def _read_open(message: tokens_pb2.TokensOpen) -> generation.GenerationOpen:
    messages.check_version(message.protocol_version)
    messages.check_names(message.session_id, claim=message.claim)
    check_prompt(len(message.prompt_ids))
    if message.max_tokens < 1:
        raise errors.ProtocolError(f"found {message.max_tokens}: ask for 1 or more", field="max_tokens")
    if len(message.stop_token_ids) > MAX_STOP_TOKENS:
        raise errors.ProtocolError(
            f"has {len(message.stop_token_ids)} tokens: send at most {MAX_STOP_TOKENS}", field="stop_token_ids"
        )
    if len(message.salt) > MAX_SALT_CHARACTERS:
        raise errors.ProtocolError(
            f"has {len(message.salt)} characters: send at most {MAX_SALT_CHARACTERS}", field="salt"
        )
    keep_spans = token_spans.read(message.keep_spans, field="keep_spans")
    token_spans.check_inside(keep_spans, num_tokens=len(message.prompt_ids), field="keep_spans")
    return generation.GenerationOpen(
        session_id=message.session_id,
        model_digest=message.model_digest,
        tokenizer_digest=message.tokenizer_digest,
        prompt_ids=tuple(message.prompt_ids),
        max_tokens=message.max_tokens,
        sampler=_read_sampling(message.sampling),
        stop_token_ids=frozenset(message.stop_token_ids),
        traceparent=message.traceparent,
        claim=message.claim,
        salt=message.salt,
        keep_share=token_spans.read_share(message.keep_share) if message.HasField("keep_share") else 1.0,
        keep_spans=keep_spans,
    )


def _read_sampling(message: tokens_pb2.Sampling) -> generation.Sampler:
    if not 0.0 <= message.temperature < math.inf:
        raise errors.ProtocolError(f"found {message.temperature}: send 0 or more", field="sampling.temperature")
    if not 0.0 < message.top_p <= 1.0:
        raise errors.ProtocolError(f"found {message.top_p}: send more than 0 and at most 1", field="sampling.top_p")
    num_logprobs = message.num_logprobs if message.HasField("num_logprobs") else None
    if (num_logprobs or 0) > MAX_TOP_LOGPROBS:
        raise errors.ProtocolError(
            f"found {num_logprobs}: ask for at most {MAX_TOP_LOGPROBS}", field="sampling.num_logprobs"
        )
    params = types.SamplingParams(temperature=message.temperature, top_p=message.top_p, top_k=message.top_k)
    return generation.Sampler(params, seed=message.seed, num_logprobs=num_logprobs)


def _read_opened(message: tokens_pb2.TokensOpened) -> generation.GenerationOpened:
    return generation.GenerationOpened(
        session_id=message.session_id,
        model_digest=message.model_digest,
        load=messages.read_load(message.load),
        max_positions=message.max_positions,
        cached_tokens=message.cached_tokens,
    )


def _read_token(message: tokens_pb2.Token) -> generation.CloudToken:
    emitted = types.EmittedToken(
        message.token_id,
        types.TokenOrigin.CLOUD,
        logprob=message.logprob if message.HasField("logprob") else None,
        top_logprobs=tuple((likely.token_id, likely.logprob) for likely in message.top_logprobs),
    )
    for field, seconds in (("queue_s", message.queue_s), ("compute_s", message.compute_s)):
        if not 0.0 <= seconds < math.inf:
            raise errors.ProtocolError(f"found {seconds}: send 0 or more", field=field)
    step = generation.Step(
        emitted, queue_s=message.queue_s, compute_s=message.compute_s, batched_tokens=message.batched_tokens
    )
    kept = token_spans.read(message.kept, field="kept") or None
    if kept and message.index:
        raise errors.ProtocolError(f"came with token {message.index}: it belongs to the first", field="kept")
    return generation.CloudToken(index=message.index, step=step, last=message.last, kept=kept)
