"""Greedy answers of the split model over real gRPC are exactly `transformers`' `generate`: every promised family, every
split point, every way to cut the prompt, with and without drafts."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
from tests.numerics import tiny_models
from tests.system import split_topology

from milliner.engine.device import device_model
from milliner.model import adapter
from milliner.strategies import options as strategy_options

PROMPT_TOKENS = 70  # more than the largest fixed chunk and the windows of the tiny models
NEW_TOKENS = 10
CHUNKS = [strategy_options.ChunkingOptions(mode=strategy_options.ChunkingMode.NONE)] + [
    strategy_options.ChunkingOptions(mode=strategy_options.ChunkingMode.FIXED, fixed_tokens=tokens)
    for tokens in (1, 7, 64)
]
ALWAYS_DRAFT = strategy_options.DraftingOptions(
    control=strategy_options.DraftControl.FIXED, max_tokens=3, min_confidence=0.0, parallel_branches=2
)


@pytest.mark.parametrize("case", tiny_models.PROMISED)
async def test_split_answers_are_those_of_generate(case: str, tmp_path: pathlib.Path) -> None:
    whole = tiny_models.save(case, tmp_path / "model")
    prompt = tiny_models.prompt(PROMPT_TOKENS).tolist()
    expected = split_topology.reference(tmp_path / "model", prompt, NEW_TOKENS)
    for split_layer in range(1, whole.config.num_hidden_layers):
        folder = tmp_path / f"adapter-{split_layer}"
        form = list(adapter.AdapterForm)[split_layer % 3]
        split_topology.write_adapter(folder, tmp_path / "model", split_layer=split_layer, form=form)
        files = device_model.DeviceFiles(tmp_path / "model", split_layer, adapter=folder)
        async with split_topology.running(files) as topology:
            for chunking in CHUNKS:
                for options in (
                    strategy_options.UShapeOptions(chunking=chunking),
                    strategy_options.HatOptions(chunking=chunking, drafting=ALWAYS_DRAFT),
                ):
                    said = await split_topology.answer(topology.strategy(options), prompt, NEW_TOKENS)
                    assert said == expected, (case, split_layer, options)


@pytest.mark.parametrize("deep_share", [0.0, 0.1, 1.0], ids=["always", "sometimes", "never"])
@pytest.mark.parametrize("tail_layers", [0, 1])
@pytest.mark.parametrize("parallel_branches", [0, 4])
async def test_accepted_drafts_change_no_token(
    deep_share: float, tail_layers: int, parallel_branches: int, tmp_path: pathlib.Path
) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=deep_share)
    prompts = [tiny_models.prompt(20 + 9 * seed, seed=seed).remainder(67).tolist() for seed in range(4)]
    expected = [split_topology.reference(model, prompt, 40) for prompt in prompts]
    files = device_model.DeviceFiles(model, 2, tail_layers, adapter=drafter)
    drafting = strategy_options.DraftingOptions(
        control=strategy_options.DraftControl.FIXED, min_confidence=0.0, parallel_branches=parallel_branches
    )
    async with split_topology.running(files) as topology:
        generator = topology.strategy(strategy_options.HatOptions(drafting=drafting))
        records = [split_topology.new_record() for _ in prompts]
        said = await asyncio.gather(
            *(
                split_topology.answer(generator, prompt, 40, request_record=used)
                for prompt, used in zip(prompts, records, strict=True)
            )
        )
    assert said == expected
    summaries = [used.finish(finish_reason="length") for used in records]
    drafted = sum(summary.counters["num_drafted"] for summary in summaries)
    accepted = sum(summary.counters["num_accepted"] for summary in summaries)
    share = accepted / drafted
    if deep_share == 0.0:
        assert share == 1.0
        assert all(summary.counters["num_rounds"] == 5 for summary in summaries)  # 1 + ceil(39 / (8 + 1)) rounds
    elif deep_share < 1.0:
        assert 0.05 < share < 0.95
    else:
        assert share < 0.2


@pytest.mark.parametrize("control", list(strategy_options.DraftControl))
async def test_every_draft_control_gives_the_same_tokens(
    control: strategy_options.DraftControl, tmp_path: pathlib.Path
) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=1, deep_share=0.1)
    prompt = tiny_models.prompt(33).remainder(67).tolist()
    expected = split_topology.reference(model, prompt, 60)
    async with split_topology.running(device_model.DeviceFiles(model, 1, adapter=drafter)) as topology:
        drafting = strategy_options.DraftingOptions(control=control)
        said = await split_topology.answer(
            topology.strategy(strategy_options.HatOptions(drafting=drafting)), prompt, 60
        )
    assert said == expected


async def test_medusa_drafts_change_no_token(tmp_path: pathlib.Path) -> None:
    model, _ = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=1.0)
    split_topology.write_medusa(tmp_path / "heads", model)
    prompt = tiny_models.prompt(33).remainder(67).tolist()
    expected = split_topology.reference(model, prompt, 40)
    files = device_model.DeviceFiles(model, 2, medusa=tmp_path / "heads")
    async with split_topology.running(files) as topology:
        generator = topology.strategy(strategy_options.UShapeOptions(medusa=True))
        assert await split_topology.answer(generator, prompt, 40) == expected


async def test_a_stop_token_ends_the_answer_even_inside_accepted_drafts(tmp_path: pathlib.Path) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=0.0)
    prompt = tiny_models.prompt(20).remainder(67).tolist()
    expected = split_topology.reference(model, prompt, 40)
    stop = expected[6]
    async with split_topology.running(device_model.DeviceFiles(model, 2, adapter=drafter)) as topology:
        generator = topology.strategy(strategy_options.HatOptions())
        said = await split_topology.answer(generator, prompt, 40, stop_token_ids=frozenset({stop}))
    assert said == expected[: expected.index(stop)]
