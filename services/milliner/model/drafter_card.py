"""The card of a drafter's folder: what the weights are, which model and split they were trained for, how well they
draft. Torch-free; `drafter_file` loads the weights beside it."""

from __future__ import annotations

import enum

import pydantic

CARD_FILE = "adapter.json"
WEIGHTS_FILE = "adapter.safetensors"


class DrafterKind(enum.StrEnum):
    """What the folder holds."""

    ADAPTER = "adapter"
    MEDUSA = "medusa"


class Figures(pydantic.BaseModel):
    """How well the drafter drafts along held-out text, measured at the end of training.

    `greedy_agreement`: share of positions whose likeliest drafted token is the target's; `expected_acceptance`:
    mean Σ min(p_target, p_draft); `acceptance_length`: accepted drafts + 1 of rounds of up to 8 drafts on those
    agreements (Medusa: up to K). Medusa's first two are those of head 1.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    greedy_agreement: float
    expected_acceptance: float
    acceptance_length: float
    held_out_tokens: int


class Card(pydantic.BaseModel):
    """The content of `adapter.json`. `form` is the adapter's, `medusa` for heads; `sizes` are the config's fields."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    kind: DrafterKind
    form: str
    model_digest: str
    split_layer: int
    dtype: str
    sizes: dict[str, int | float | str]
    figures: Figures | None = None
    training_text_digest: str = ""
    steps: int = 0
    training_tokens: int = 0
    hardware: str = ""
