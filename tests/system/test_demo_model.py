"""The demo model over real gRPC: greedy answers to held-out prompts are the unsplit model's, four at a time."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
import tokenizers
from tests.system import split_topology

from milliner.bench import prompts, reference
from milliner.demo import assets
from milliner.engine.device import device_model
from milliner.strategies import options as strategy_options

NUM_PROMPTS, PROMPT_TOKENS, NEW_TOKENS, CONCURRENT = 20, 96, 128, 4
SPLIT_LAYER = 2  # the demo's adapters'


@pytest.fixture(scope="module")
def answers() -> dict[prompts.Prompt, tuple[int, ...]]:
    """Held-out prompts with the greedy answers of the unsplit model, by `transformers`."""
    tokenizer = tokenizers.Tokenizer.from_file(str(assets.model_dir() / "tokenizer.json"))
    cut = prompts.cut(
        [path.read_text(encoding="utf-8") for path in assets.heldout_texts()],
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lengths=[PROMPT_TOKENS],
        count=NUM_PROMPTS,
    )
    return reference.greedy_answers(assets.model_dir(), cut[PROMPT_TOKENS], new_tokens=NEW_TOKENS)


@pytest.mark.parametrize(
    "options", [strategy_options.UShapeOptions(), strategy_options.HatOptions()], ids=["UShape", "Hat"]
)
async def test_held_out_prompts_are_answered_as_by_the_unsplit_model(
    options: strategy_options.UShapeOptions | strategy_options.HatOptions,
    answers: dict[prompts.Prompt, tuple[int, ...]],
) -> None:
    assert len(answers) == NUM_PROMPTS
    files = device_model.DeviceFiles(pathlib.Path(assets.model_dir()), SPLIT_LAYER, adapter=assets.adapter_dir())
    async with split_topology.running(files) as topology:
        generator = topology.strategy(options)
        places = asyncio.Semaphore(CONCURRENT)

        async def answer(prompt: prompts.Prompt) -> tuple[int, ...]:
            async with places:
                return tuple(await split_topology.answer(generator, prompt, NEW_TOKENS))

        said = await asyncio.gather(*(answer(prompt) for prompt in answers))
    assert said == list(answers.values())
