"""A cloud of several stages gives the very answers of the unsplit model and rolls back with it."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
from tests.numerics import tiny_models
from tests.system import split_topology

from milliner.engine.device import device_model
from milliner.strategies import options as strategy_options

NEW_TOKENS = 24
CHUNKS_OF_7 = strategy_options.ChunkingOptions(mode=strategy_options.ChunkingMode.FIXED, fixed_tokens=7)
ALWAYS_DRAFT = strategy_options.DraftingOptions(
    control=strategy_options.DraftControl.FIXED, max_tokens=3, min_confidence=0.0, parallel_branches=2
)


@pytest.mark.parametrize(("split_layer", "tail_layers", "num_stages"), [(1, 0, 2), (1, 0, 3), (1, 1, 2), (2, 0, 2)])
async def test_stages_change_no_token(
    split_layer: int, tail_layers: int, num_stages: int, tmp_path: pathlib.Path
) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=split_layer, deep_share=0.1)
    prompts = [tiny_models.prompt(40 + 9 * seed, seed=seed).remainder(67).tolist() for seed in range(3)]
    expected = [split_topology.reference(model, prompt, NEW_TOKENS) for prompt in prompts]
    files = device_model.DeviceFiles(model, split_layer, tail_layers, adapter=drafter)
    async with split_topology.running(files, num_stages=num_stages) as topology:
        for options in (
            strategy_options.UShapeOptions(chunking=CHUNKS_OF_7),
            strategy_options.HatOptions(chunking=CHUNKS_OF_7, drafting=ALWAYS_DRAFT),
        ):
            generator = topology.strategy(options)
            records = [split_topology.new_record() for _ in prompts]
            said = await asyncio.gather(
                *(
                    split_topology.answer(generator, prompt, NEW_TOKENS, request_record=used)
                    for prompt, used in zip(prompts, records, strict=True)
                )
            )
            assert said == expected, options
    counted = [used.finish(finish_reason="length").counters for used in records]
    drafted = sum(counters["num_drafted"] for counters in counted)
    accepted = sum(counters["num_accepted"] for counters in counted)
    assert 0 < accepted < drafted, "some rounds have to roll back"
