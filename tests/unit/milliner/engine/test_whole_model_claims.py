"""A whole model's cloud knows who has waited long, as the cloud of a split one does."""

from __future__ import annotations

from typing import Any, cast

import pytest

from milliner.core import errors, generation, types
from milliner.engine import claims, executor, limits, token_service, whole_model
from milliner.engine import engine as engines

from . import toys

INFO = generation.WholeModelInfo("m", "t", num_layers=1, vocab_size=100, max_positions=100)


class NoTokens:
    """A codec that is never asked for any."""

    def embed(self, token_ids: object) -> Any:
        raise AssertionError

    def chooser(self, sampler: generation.Sampler, *, origin: types.TokenOrigin) -> Any:
        return None


def wanted(name: str, *, tokens: int, claim: str = "") -> generation.GenerationOpen:
    sampler = generation.Sampler(types.SamplingParams(), seed=0)
    return generation.GenerationOpen(name, "m", "t", (1,) * tokens, 1, sampler, claim=claim)


async def test_a_large_prompt_that_has_waited_is_not_overtaken_by_small_ones() -> None:
    clock, worker = toys.ManualClock(), executor.ComputeExecutor(name="unused")
    config = limits.EngineConfig(kv_cache_bytes=0)
    engine = engines.Engine(toys.ToyBackend(num_pages=8, page_tokens=4), config=config, executor=worker, clock=clock)
    model = whole_model.EngineModel(
        engine, codec=cast(whole_model.Codec, NoTokens()), info=INFO, origin=types.TokenOrigin.CLOUD
    )
    service = token_service.EngineTokenService(model, load=engine.load, max_positions=lambda: 32)
    try:
        await service.open(wanted("first", tokens=15))
        for _ in range(int(claims.PATIENCE_S) + 1):
            with pytest.raises(errors.KVCacheFull):
                await service.open(wanted("large", tokens=27, claim="large"))
            await clock.advance(1.0)
        with pytest.raises(errors.KVCacheFull, match="waited longer"):
            await service.open(wanted("small", tokens=3, claim="small"))
        await service.close("first")
        await service.open(wanted("large", tokens=27, claim="large"))
    finally:
        worker.close()
