"""A real model in virtual time: `runner.System` whose tokens are computed and whose durations are the preset's.

Device and cloud compute on the caller's thread while virtual time stands still, and then every call takes what the
preset says. So acceptance, hidden drafts and answers are a real model's, figures do not depend on the machine or what
else it does, and nothing is left of gRPC, processes and Python: the difference to the same run with real processes is
their price. Blocks the event loop, which in virtual time nobody minds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import torch

from milliner.bench import cells, device_tier, generators, plan, presets
from milliner.bench.modelled import cloud, virtual_time
from milliner.core import ports, types
from milliner.engine import executor as executors
from milliner.engine.device import device_model
from milliner.model import checkpoint, kv_cache, ragged, slice
from milliner.strategies import base
from milliner.wire import codecs

T = TypeVar("T")

_PAGE_TOKENS = 64  # arbitrary
_MAX_SESSIONS = 4  # one user; room for a session whose end is still on its way


class VirtualExecutor(executors.ComputeExecutor):
    """Computes at once, then waits for the modelled duration; a call without one takes no time."""

    def __init__(self, *, name: str, clock: ports.Clock) -> None:
        super().__init__(name=name)
        self._clock = clock
        self._turn = asyncio.Lock()

    async def run(
        self, fn: Callable[[], T], *, modelled_s: executors.ModelledDuration[T] | None = None
    ) -> tuple[T, float]:
        async with self._turn:
            result = fn()
            seconds = (modelled_s(result) if callable(modelled_s) else modelled_s) or 0.0
            self.calls += 1
            self.busy_s += seconds
            await self._clock.sleep(seconds)
        return result, seconds


class CloudLayers:
    """The cloud's slice over one KV cache. Implements `cloud.Layers`."""

    def __init__(self, part: slice.ModelSlice, *, max_positions: int) -> None:
        self._slice = part
        self._cache = kv_cache.PagedKVCache(
            part.kv_spec,
            num_pages=_MAX_SESSIONS * -(-max_positions // _PAGE_TOKENS),
            page_tokens=_PAGE_TOKENS,
            dtype=part.dtype,
            torch_device=part.torch_device,
        )
        self._sessions: dict[str, kv_cache.SequenceKV] = {}

    @torch.inference_mode()
    def forward(self, frame: types.HiddenFrame) -> types.Payload | None:
        """Deep states of the positions that the frame asks for."""
        part = self._slice
        session = self._sessions.setdefault(frame.session_id, self._cache.open())
        session.truncate(frame.commit_pos)
        assert session.kv_len == frame.start_pos, "nothing is lost in virtual time"
        session.reserve(frame.num_tokens)
        hidden = torch.cat([codecs.decode(payload, part.hidden_size, part.dtype) for payload in frame.payloads])
        segment = ragged.Segment(session, session.kv_len, frame.num_tokens)
        deep = part.forward(hidden, ragged.RaggedBatch.build([segment], torch_device=part.torch_device))  # [T, D]
        if frame.reply_positions is types.ReplyPositions.NONE:
            return None
        return codecs.encode(
            deep if frame.reply_positions is types.ReplyPositions.ALL else deep[-1:], frame.reply_codec
        )

    def close(self, session_id: str) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            session.close()


class RealModelSystem:
    """One accelerator for the device's variants and one cloud: with one user nothing overlaps."""

    def __init__(
        self, files: device_tier.Files, *, preset: presets.Preset, strategies: tuple[plan.StrategyName, ...]
    ) -> None:
        self.clock = virtual_time.VirtualClock()
        self._worker = VirtualExecutor(name="bench device", clock=self.clock)
        devices: dict[str, device_model.DeviceModel] = device_tier.load(
            files, preset=preset, strategies=strategies, worker=self._worker
        )
        info = next(iter(devices.values())).info
        spec = slice.SliceSpec(info.split_layer, info.cloud_slice_end, embedding=False, lm_head=False)
        part = slice.load_slice(
            checkpoint.Checkpoint.open(files.model), spec, dtype=torch.float32, torch_device=torch.device("cpu")
        )
        layers = CloudLayers(part, max_positions=info.max_positions)
        self._cloud = cloud.ModelledCloud(preset, clock=self.clock, layers=layers)
        self._generators = generators.Generators(clock=self.clock, transport=self._cloud, devices=devices)

    def generator(self, variant: plan.Variant) -> base.Generator:
        """The variant's generator; one for the whole run, since a device keeps what it has learnt."""
        return self._generators.of(variant)

    async def counters(self, variant: plan.Variant) -> tuple[cells.ComputeCounters, cells.ComputeCounters]:
        device = cells.ComputeCounters(calls=self._worker.calls, busy_s=self._worker.busy_s)
        return device, cells.ComputeCounters(calls=self._cloud.calls, busy_s=self._cloud.busy_s)
