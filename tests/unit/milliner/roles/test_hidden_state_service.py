"""Between wire and engine: who may open a session, and frames to work and back."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from milliner.core import clock, errors, types
from milliner.engine import work
from milliner.roles import hidden_state_service
from milliner.telemetry import cloud_span, tracing
from milliner.wire import codecs

REQUEST = types.SessionOpen(
    session_id="s", model_digest="sha256:a", slice_start=2, slice_end=8, hidden_size=4, max_positions=16
)


class ToyEngine:
    """Doubles what it gets; keeps what it was asked."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.opened: list[types.SessionOpen] = []
        self.closed: list[str] = []
        self.error = error

    async def open(self, request: types.SessionOpen) -> types.SessionOpened:
        self.opened.append(request)
        return types.SessionOpened(session_id=request.session_id, max_frame_tokens=8, load=self.load())

    async def forward(self, frame: work.Work) -> work.Done:
        if self.error is not None:
            raise self.error
        payload = frame.encode(frame.decode() * 2)
        return work.Done(
            kv_len=frame.end_pos, payload=payload, queue_s=0.1, compute_s=0.2, batched_tokens=7, codec_s=0.3
        )

    async def close(self, session_id: str) -> None:
        self.closed.append(session_id)

    def load(self) -> types.LoadReport:
        return types.LoadReport(running_sessions=1)


def service(engine: ToyEngine) -> tuple[hidden_state_service.HiddenStateService, tracing.Tracing]:
    traces = tracing.set_up(tier="cloud")
    served = hidden_state_service.Served(
        model_digest="sha256:a", slice_start=2, slice_end=8, hidden_size=4, dtype=torch.float32
    )
    one = hidden_state_service.HiddenStateService(
        engine,  # type: ignore[arg-type]
        served=served,
        spans=cloud_span.CloudSpans(traces.tracer),
        clock=clock.LoopClock(),
    )
    return one, traces


@pytest.mark.parametrize(
    ("change", "expected", "field"),
    [
        ({"protocol_version": 99}, errors.VersionMismatch, "protocol_version"),
        ({"model_digest": "sha256:b"}, errors.DigestMismatch, "model_digest"),
        ({"hidden_size": 8}, errors.ShapeMismatch, "hidden_size"),
        ({"slice_start": 3}, errors.ShapeMismatch, "slice_start"),
        ({"slice_end": 7}, errors.ShapeMismatch, "slice_end"),
    ],
)
async def test_a_device_of_another_kind_is_refused_before_the_engine_hears_of_it(
    change: dict[str, object], expected: type[errors.MillinerError], field: str
) -> None:
    engine = ToyEngine()
    one, _ = service(engine)
    with pytest.raises(expected) as refused:
        await one.open(dataclasses.replace(REQUEST, **change))  # type: ignore[arg-type]
    assert refused.value.field == field
    assert engine.opened == []
    assert (await one.open(REQUEST)).session_id == "s"
    assert engine.opened == [REQUEST]


def frame(*parts: torch.Tensor) -> types.HiddenFrame:
    return types.HiddenFrame(
        session_id="s",
        round=3,
        commit_pos=5,
        start_pos=5,
        kind=types.FrameKind.VERIFY,
        payloads=tuple(
            codecs.encode(part, codec)
            for part, codec in zip(parts, (types.Codec.FLOAT32, types.Codec.FLOAT16), strict=False)
        ),
        reply_positions=types.ReplyPositions.ALL,
        reply_codec=types.Codec.FLOAT32,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )


async def test_payloads_of_several_codecs_are_joined_and_durations_are_handed_on() -> None:
    one, traces = service(ToyEngine())
    first, second = torch.arange(8.0).reshape(2, 4), torch.ones(1, 4)
    reply = await one.forward(frame(first, second))
    assert reply.payload is not None
    assert torch.equal(codecs.decode(reply.payload, 4, torch.float32), torch.cat([first, second]) * 2)
    assert (reply.session_id, reply.round, reply.start_pos, reply.kv_len) == ("s", 3, 5, 8)
    assert (reply.queue_s, reply.compute_s, reply.codec_s, reply.batched_tokens) == (0.1, 0.2, 0.3, 7)
    assert reply.load.running_sessions == 1
    names = [span.name for span in traces.recent.spans(trace_id="0af7651916cd43dd8448eb211c80319c")]
    assert names[-1] == "cloud Verify"


async def test_what_the_engine_refuses_is_raised_and_traced() -> None:
    one, traces = service(ToyEngine(error=errors.KVCacheFull("full", field="max_positions")))
    with pytest.raises(errors.KVCacheFull):
        await one.forward(frame(torch.ones(1, 4)))
    (span,) = traces.recent.spans()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "KVCacheFull"


async def test_closing_frees_the_engines_session() -> None:
    engine = ToyEngine()
    one, _ = service(engine)
    await one.close("s")
    assert engine.closed == ["s"]
