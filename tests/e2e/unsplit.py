"""What the whole demo model answers: transformers in float32, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers

from milliner.demo import assets


def answers(prompts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
    """Token ids of the answer to each prompt, without end-of-text stops counted in."""
    folder = str(assets.model_dir())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        whole = model.generate(ids, max_new_tokens=max_tokens, do_sample=False)
        found.append(whole[0, ids.shape[1] :].tolist())
    return found
