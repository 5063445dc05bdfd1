"""However a sequence of a whole model ends, whoever reads it hears of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, cast

import pytest

from milliner.core import errors, generation, types
from milliner.engine import engine as engines
from milliner.engine import whole_model

from . import running, toys

INFO = generation.WholeModelInfo("m", "t", num_layers=1, vocab_size=100, max_positions=100)


class NumberCodec:
    """A token is its id as a hidden state; the next one is always 7."""

    def embed(self, token_ids: Sequence[int]) -> Any:
        return [float(each) for each in token_ids]

    def chooser(self, sampler: generation.Sampler, *, origin: types.TokenOrigin) -> NumberCodec:
        return self

    def choose(self, logits: object, *, position: int) -> types.EmittedToken:
        return types.EmittedToken(7, types.TokenOrigin.CLOUD)


def over(engine: engines.Engine) -> whole_model.EngineModel:
    return whole_model.EngineModel(
        engine, codec=cast(whole_model.Codec, NumberCodec()), info=INFO, origin=types.TokenOrigin.CLOUD
    )


async def opened(engine: engines.Engine) -> whole_model.EngineSession:
    return await over(engine).open(generation.Sampler(types.SamplingParams(), seed=0), max_positions=16)


async def test_who_generates_in_a_session_that_was_ended_meanwhile_hears_of_it() -> None:
    async with running.serving(toys.ToyBackend()) as engine:
        session = await opened(engine)
        await session.prefill([1, 2])
        await session.close()
        with pytest.raises(errors.UnknownSession):
            async with asyncio.timeout(10), contextlib.aclosing(session.generate([3], limit=2)) as steps:
                await anext(steps)
