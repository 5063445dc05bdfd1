"""Greedy answers of the unsplit model in float32, by `transformers`: what every strategy's answer is held against.

A plain loop over the family's own forward pass and cache, none of our slices, so that it can disagree with them.
Blocks: called up front, off the event loop, before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import transformers

from milliner.bench.prompts import Prompt


def greedy_answers(
    model_dir: Path, prompts: Iterable[Prompt], *, new_tokens: int, on_done: Callable[[], None] = lambda: None
) -> dict[Prompt, tuple[int, ...]]:
    """`new_tokens` greedy tokens for each prompt, past any end of text. `on_done` is called after each prompt.

    Raises what `transformers` raises for a folder that it cannot load.
    """
    transformers.utils.logging.disable_progress_bar()  # the bench has one of its own
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    answers: dict[Prompt, tuple[int, ...]] = {}
    for prompt in dict.fromkeys(prompts):
        answers[prompt] = _greedy(model, prompt, new_tokens)
        on_done()
    return answers


@torch.inference_mode()
def _greedy(model: transformers.PreTrainedModel, prompt: Prompt, new_tokens: int) -> tuple[int, ...]:
    """Prefill, then one token at a time through the family's own cache."""
    token_ids = torch.tensor([prompt])  # [1, T]
    cache = None
    answer: list[int] = []
    for _ in range(new_tokens):
        output = model(input_ids=token_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        token_ids = output.logits[:, -1].argmax(dim=-1, keepdim=True)  # [1, 1]
        answer.append(int(token_ids.item()))
    return tuple(answer)
