"""The model families that can be sliced exactly, by `model_type`. Torch-free: an inspection refuses others by it.

A family is listed only when `tests/numerics` compares it with `transformers`' `generate` at every split point.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """What a family does outside its layers; the fields name attributes of its configuration.

    `embedding_multiplier`: embeddings are multiplied by it. `logits_multiplier`, `logits_divisor`: logits likewise.
    `window`: a sliding window that holds for every layer, in families without `layer_types`.
    """

    embedding_multiplier: str | None = None
    logits_multiplier: str | None = None
    logits_divisor: str | None = None
    window: str | None = None


PLAIN = Family()  # also Gemma: its embedding classes scale by themselves
WINDOWED = Family(window="sliding_window")
COHERE = Family(logits_multiplier="logit_scale")
FAMILIES: dict[str, Family] = {
    "apertus": PLAIN,
    "arcee": PLAIN,
    "cohere": COHERE,
    "cohere2": COHERE,
    "ernie4_5": PLAIN,
    "exaone4": PLAIN,
    "flex_olmo": PLAIN,
    "gemma": PLAIN,
    "gemma2": PLAIN,
    "gemma3_text": PLAIN,
    "glm": PLAIN,
    "glm4": PLAIN,
    "gpt_oss": PLAIN,
    "granite": Family(embedding_multiplier="embedding_multiplier", logits_divisor="logits_scaling"),
    "helium": PLAIN,
    "hunyuan_v1_dense": PLAIN,
    "llama": PLAIN,
    "ministral": PLAIN,
    "mistral": WINDOWED,
    "mixtral": WINDOWED,
    "olmo": PLAIN,
    "olmo2": PLAIN,
    "olmo3": PLAIN,
    "olmoe": PLAIN,
    "phi3": WINDOWED,
    "qwen2": PLAIN,
    "qwen2_moe": PLAIN,
    "qwen3": PLAIN,
    "qwen3_moe": PLAIN,
    "seed_oss": PLAIN,
    "smollm3": PLAIN,
    "starcoder2": WINDOWED,
    "vaultgemma": PLAIN,
}


def unknown_family(model_type: str) -> str:
    """What to say of a family that is not listed."""
    return f"model_type {model_type!r} cannot be sliced exactly; supported: {', '.join(sorted(FAMILIES))}"
