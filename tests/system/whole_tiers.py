"""Two tiers that each run a whole tiny model, in one process: engines, the cloud's token service, a transport without a
network. Test harness."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
from collections.abc import AsyncGenerator, AsyncIterator

import torch

from milliner.core import clock, compute, errors, generation, types
from milliner.engine import engine as engines
from milliner.engine import (
    executor,
    limits,
    refiner,
    scheduler,
    slice_backend,
    token_codec,
    token_service,
    whole_model,
)
from milliner.model import checkpoint, digest, kv_cache
from milliner.model import slice as slices

PAGE_TOKENS = 16
TOKENIZER_DIGEST = "sha256:" + "0" * 64  # the tests have no text


@dataclasses.dataclass(frozen=True)
class Tier:
    """One running model."""

    model: whole_model.EngineModel
    engine: engines.Engine
    worker: executor.ComputeExecutor

    @property
    def busy_s(self) -> float:
        return self.worker.busy_s


@contextlib.asynccontextmanager
async def tier(
    folder: pathlib.Path,
    *,
    origin: types.TokenOrigin,
    cost: compute.ComputeCost | None = None,
    max_batch_tokens: int = 2048,
    max_frame_tokens: int = 2048,
    num_pages: int | None = None,
    swap_pages: int = 0,
    policy: scheduler.SchedulingPolicy | None = None,
) -> AsyncIterator[Tier]:
    """A whole model on an engine of its own."""
    source = checkpoint.Checkpoint.open(folder)
    spec = slices.SliceSpec(0, source.num_layers, embedding=True, lm_head=True)
    loaded = slices.load_slice(source, spec, dtype=torch.float32, torch_device=torch.device("cpu"))
    page_bytes = PAGE_TOKENS * kv_cache.PagedKVCache.bytes_per_token(loaded.kv_spec, loaded.dtype)
    config = limits.EngineConfig(
        kv_cache_bytes=32 << 20 if num_pages is None else num_pages * page_bytes,
        kv_swap_bytes=swap_pages * page_bytes,
        page_tokens=PAGE_TOKENS,
        max_batch_tokens=max_batch_tokens,
        max_frame_tokens=max_frame_tokens,
    )
    worker = executor.ComputeExecutor(name=origin.value)
    engine = engines.Engine(
        slice_backend.SliceBackend(loaded, config=config),
        config=config,
        executor=worker,
        clock=clock.LoopClock(),
        cost=cost,
        policy=policy,
    )
    info = generation.WholeModelInfo(
        model_digest=digest.model_digest(folder),
        tokenizer_digest=TOKENIZER_DIGEST,
        num_layers=source.num_layers,
        vocab_size=loaded.vocab_size,
        max_positions=loaded.max_positions,
    )
    model = whole_model.EngineModel(
        engine,
        codec=token_codec.TokenCodec(loaded),
        info=info,
        origin=origin,
        refiner=refiner.Refiner(loaded.kv_spec),
    )
    serving = asyncio.create_task(engine.run())
    try:
        yield Tier(model, engine, worker)
    finally:
        await engine.stop()
        await serving
        worker.close()


def service(cloud: Tier) -> token_service.EngineTokenService:
    return token_service.EngineTokenService(cloud.model, load=cloud.engine.load, max_positions=lambda: 4096)


class DirectTransport:
    """`core.generation.TokenTransport` straight into a service. It is lost after `lose_after` tokens, if that is set;
    0: before it admits anybody."""

    def __init__(self, service: generation.TokenService) -> None:
        self._service = service
        self.lose_after: int | None = None
        self.delay_s = 0.0  # before every token
        self.given: list[int] = []  # tokens that each stream gave

    async def open(self, request: generation.GenerationOpen) -> DirectStream:
        if self.lose_after == 0:
            raise errors.UnavailableError("the cloud is gone", field="cloud")
        opened = await self._service.open(request)
        self.given.append(0)
        return DirectStream(self, self._service, opened)


class DirectStream:
    """`core.generation.TokenStream`."""

    def __init__(
        self, transport: DirectTransport, service: generation.TokenService, opened: generation.GenerationOpened
    ) -> None:
        self._transport = transport
        self._service = service
        self.opened = opened
        self._tokens: AsyncGenerator[generation.CloudToken, None] = service.generate(opened.session_id)

    async def receive(self) -> generation.CloudToken:
        transport = self._transport
        if transport.lose_after is not None and transport.given[-1] >= transport.lose_after:
            await self.close()
            raise errors.UnavailableError("the cloud is gone", field="cloud")
        await asyncio.sleep(transport.delay_s)
        found = await anext(self._tokens)
        transport.given[-1] += 1
        return found

    async def set_limit(self, max_tokens: int) -> None:
        await self._service.set_limit(self.opened.session_id, max_tokens)

    async def close(self) -> None:
        await self._tokens.aclose()
        await self._service.close(self.opened.session_id)
