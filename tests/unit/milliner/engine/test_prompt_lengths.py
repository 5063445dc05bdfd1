"""What a policy knows of a prompt's length."""

from __future__ import annotations

from collections.abc import Sequence

from milliner.core import generation, types
from milliner.engine import scheduler

from . import running, test_whole_model_ends, toys


class Watching(scheduler.VerifyFirst):
    """The engine's usual policy, which writes down how long prompts are said to be."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def plan(self, waiting: Sequence[scheduler.Waiting], *, budget_tokens: int) -> list[scheduler.Share]:
        self.seen += [frame.prompt_tokens for frame in waiting]
        return super().plan(waiting, budget_tokens=budget_tokens)


async def test_a_prompt_of_several_frames_counts_whole_from_its_first_frame_on() -> None:
    policy, prompt = Watching(), list(range(60))  # frames take 24
    async with running.serving(toys.ToyBackend(), policy=policy) as engine:
        model = test_whole_model_ends.over(engine)
        sampler = generation.Sampler(types.SamplingParams(), seed=0)
        session = await model.open(sampler, max_positions=62, prompt_ids=prompt)
        await session.prefill(prompt)
        await session.close()
    assert set(policy.seen) == {60}
