"""The engine over a real slice: sessions in one batch equal sessions alone, and failures stay with their frame."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import torch
import transformers

from milliner.core import clock as clocks
from milliner.core import errors, types
from milliner.core.types import FrameKind, ReplyPositions
from milliner.engine import engine, executor, limits, slice_backend, work
from milliner.model import checkpoint, slice

WIDTH = 32


@pytest.fixture(scope="module")
def model_slice(tmp_path_factory: pytest.TempPathFactory) -> slice.ModelSlice:
    """Layers [1, 3) of a random Llama of 3 layers."""
    path: Path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    spec = slice.SliceSpec(1, 3, embedding=False, lm_head=False)
    return slice.load_slice(
        checkpoint.Checkpoint.open(path), spec, dtype=torch.float32, torch_device=torch.device("cpu")
    )


@contextlib.asynccontextmanager
async def serving(model_slice: slice.ModelSlice, *, max_batch_tokens: int = 16) -> AsyncIterator[engine.Engine]:
    config = limits.EngineConfig(kv_cache_bytes=1 << 20, max_batch_tokens=max_batch_tokens, page_tokens=8)
    backend = slice_backend.SliceBackend(model_slice, config=config)
    worker = executor.ComputeExecutor(name="test", torch_threads=1)
    cloud = engine.Engine(backend, config=config, executor=worker, clock=clocks.LoopClock())
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(cloud.run())
            yield cloud
            await cloud.stop()
    finally:
        worker.close()


def session_open(session_id: str) -> types.SessionOpen:
    return types.SessionOpen(
        session_id=session_id,
        model_digest="sha256:0",
        slice_start=1,
        slice_end=3,
        hidden_size=WIDTH,
        max_positions=96,
    )


class Device:
    """A peer without a wire: sends slices of its hidden states and keeps the deep states that come back."""

    def __init__(self, cloud: engine.Engine, session_id: str, hidden: torch.Tensor) -> None:
        self.cloud = cloud
        self.session_id = session_id
        self.hidden = hidden
        self.deep: list[torch.Tensor] = []

    async def send(
        self,
        start: int,
        end: int,
        *,
        round_index: int,
        kind: FrameKind = FrameKind.CHUNK,
        reply: ReplyPositions = ReplyPositions.ALL,
        decode: Callable[[], torch.Tensor] | None = None,
    ) -> work.Done:
        return await self.cloud.forward(
            work.Work(
                session_id=self.session_id,
                round=round_index,
                commit_pos=start,
                start_pos=start,
                num_tokens=end - start,
                kind=kind,
                reply_positions=reply,
                decode=decode or (lambda: self.hidden[start:end]),
                encode=self._keep,
            )
        )

    def _keep(self, deep: torch.Tensor) -> types.Payload:
        self.deep.append(deep.clone())
        return types.Payload(codec=types.Codec.FLOAT32, num_tokens=len(deep), data=b"")


async def alone(model_slice: slice.ModelSlice, hidden: torch.Tensor) -> torch.Tensor:
    """The deep states of one session that has the engine to itself and sends everything at once."""
    async with serving(model_slice, max_batch_tokens=128) as cloud:
        await cloud.open(session_open("alone"))
        device = Device(cloud, "alone", hidden)
        await device.send(0, len(hidden), round_index=0)
        return device.deep[0]


async def test_sixteen_sessions_with_chunks_splits_and_rollbacks_equal_each_alone(
    model_slice: slice.ModelSlice,
) -> None:
    hidden = torch.randn(16, 80, WIDTH, generator=torch.Generator().manual_seed(1))
    expected = [await alone(model_slice, states) for states in hidden]

    async def serve(cloud: engine.Engine, index: int) -> None:
        device = Device(cloud, f"s{index}", hidden[index])
        await cloud.open(session_open(device.session_id))
        cut = 30 + index  # chunks of different sizes, longer than the budget of a batch, sent without waiting
        await asyncio.gather(
            device.send(0, cut, round_index=0),
            device.send(cut, 60, round_index=0, kind=FrameKind.LAST_CHUNK),
        )
        await device.send(60, 70, round_index=1, kind=FrameKind.VERIFY, decode=lambda: -hidden[index, 60:70])
        device.deep.pop()  # drafts that were all wrong
        await device.send(60, 64, round_index=2, kind=FrameKind.VERIFY)
        for position in range(64, 80):
            await device.send(position, position + 1, round_index=position, kind=FrameKind.VERIFY)
        await cloud.close(device.session_id)
        # Batches of other shapes sum in another order: float32 differs in its last digits.
        torch.testing.assert_close(torch.cat(device.deep), expected[index], atol=2e-5, rtol=1e-4)

    async with serving(model_slice) as cloud, asyncio.TaskGroup() as tasks:
        for index in range(16):
            tasks.create_task(serve(cloud, index))


async def test_only_the_asked_positions_come_back(model_slice: slice.ModelSlice) -> None:
    hidden = torch.randn(40, WIDTH)
    expected = await alone(model_slice, hidden)
    async with serving(model_slice) as cloud:
        await cloud.open(session_open("a"))
        device = Device(cloud, "a", hidden)
        assert (await device.send(0, 20, round_index=0, reply=ReplyPositions.NONE)).payload is None
        done = await device.send(20, 40, round_index=0, reply=ReplyPositions.LAST)
        assert done.payload is not None
        torch.testing.assert_close(device.deep[0], expected[-1:], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("decode", "expected"),
    [
        (lambda: torch.zeros(4, WIDTH), errors.ShapeMismatch),
        (lambda: torch.zeros(3, WIDTH + 1), errors.ShapeMismatch),
        (lambda: torch.full((3, WIDTH), float("nan")), errors.ShapeMismatch),
        (lambda: torch.frombuffer(b"abc", dtype=torch.float32), errors.ProtocolError),
    ],
)
async def test_an_unreadable_frame_fails_alone(
    model_slice: slice.ModelSlice, decode: Callable[[], torch.Tensor], expected: type[Exception]
) -> None:
    hidden = torch.randn(3, WIDTH)
    async with serving(model_slice) as cloud:
        for name in "ab":
            await cloud.open(session_open(name))
        good, bad = Device(cloud, "a", hidden), Device(cloud, "b", hidden)
        results = await asyncio.gather(
            good.send(0, 3, round_index=0), bad.send(0, 3, round_index=0, decode=decode), return_exceptions=True
        )
        assert isinstance(results[0], work.Done)
        assert isinstance(results[1], expected)
        assert isinstance(results[1], errors.MillinerError)
        assert results[1].field == "payloads"
        await bad.send(0, 3, round_index=0)
        torch.testing.assert_close(bad.deep[0], good.deep[0], atol=2e-5, rtol=1e-4)


async def test_a_forward_pass_that_fails_for_one_session_is_computed_for_the_others(
    model_slice: slice.ModelSlice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = slice.ModelSlice.forward

    def refuse_long(self: slice.ModelSlice, hidden: torch.Tensor, batch: object) -> torch.Tensor:
        if any(segment.num_tokens > 8 for segment in batch.segments):  # type: ignore[attr-defined]
            raise RuntimeError("out of memory")
        return forward(self, hidden, batch)  # type: ignore[arg-type]

    hidden = torch.randn(12, WIDTH)
    expected = await alone(model_slice, hidden)
    monkeypatch.setattr(slice.ModelSlice, "forward", refuse_long)
    with caplog.at_level(logging.CRITICAL, logger="milliner"):
        async with serving(model_slice, max_batch_tokens=64) as cloud:
            for name in "abc":
                await cloud.open(session_open(name))
            small = [Device(cloud, name, hidden) for name in "ab"]
            results = await asyncio.gather(
                *(device.send(0, 6, round_index=0) for device in small),
                Device(cloud, "c", hidden).send(0, 12, round_index=0),
                return_exceptions=True,
            )
            assert isinstance(results[2], errors.UnavailableError)
            for device in small:
                await device.send(6, 12, round_index=1)
                torch.testing.assert_close(torch.cat(device.deep), expected, atol=2e-5, rtol=1e-4)


async def test_closed_sessions_give_their_pages_back(model_slice: slice.ModelSlice) -> None:
    hidden = torch.randn(64, WIDTH)
    async with serving(model_slice, max_batch_tokens=64) as cloud:
        for turn in range(100):  # far more than the cache holds at once
            device = Device(cloud, f"s{turn}", hidden)
            await cloud.open(session_open(device.session_id))
            await device.send(0, 64, round_index=0, reply=ReplyPositions.NONE)
            await cloud.close(device.session_id)
        assert cloud.load().kv_used_share == 0.0


async def test_frames_beyond_the_models_context_are_refused(model_slice: slice.ModelSlice) -> None:
    async with serving(model_slice, max_batch_tokens=256) as cloud:
        await cloud.open(
            types.SessionOpen(
                session_id="a",
                model_digest="sha256:0",
                slice_start=1,
                slice_end=3,
                hidden_size=WIDTH,
                max_positions=1000,
            )
        )
        with pytest.raises(errors.PositionMismatch):
            await Device(cloud, "a", torch.randn(129, WIDTH)).send(0, 129, round_index=0)
        assert (await Device(cloud, "a", torch.randn(128, WIDTH)).send(0, 128, round_index=0)).kv_len == 128


def test_a_cache_too_small_for_one_page_is_a_configuration_error(model_slice: slice.ModelSlice) -> None:
    config = limits.EngineConfig(kv_cache_bytes=100, kv_cache_field="devicePools[].kvCacheMebibytes")
    with pytest.raises(errors.ConfigError) as refusal:
        slice_backend.SliceBackend(model_slice, config=config)
    assert refusal.value.field == "devicePools[].kvCacheMebibytes"
