"""What a drafter's training is asked for: filled by `milliner train-adapter` and the demo's build."""

from __future__ import annotations

import dataclasses
import pathlib

from milliner.model import adapter as adapters
from milliner.model import drafter_file


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What to train, on what, for how long. `held_out` empty: the last 3 % of the text is kept apart instead.

    `long_tokens` 0: no long windows; else the last quarter of the run uses windows of that length, so that drafting
    holds up at long contexts. `learning_rate` None: `default_learning_rate`. `start` names an adapter's folder whose
    weights are the first; None: the target's own layer. `feature_cache` names a file for the target's hidden states
    over `cached_tokens` tokens, which are then trained on many times; None: the target reads fresh text at every step.

    The figures are measured on at most `held_out_tokens` tokens, for at most `measure_share` of the time that training
    took or `measure_at_least_s`, whichever is longer (all three arbitrary: a tenth more is hardly felt).
    """

    model: pathlib.Path
    split_layer: int
    text: tuple[pathlib.Path, ...]
    out: pathlib.Path
    held_out: tuple[pathlib.Path, ...] = ()
    kind: drafter_file.DrafterKind = drafter_file.DrafterKind.ADAPTER
    form: adapters.AdapterForm = adapters.AdapterForm.LAYER
    num_heads: int = 4
    steps: int = 2_000
    max_minutes: float | None = None
    batch_windows: int = 8
    window_tokens: int = 512
    long_tokens: int = 0
    learning_rate: float | None = None
    num_passes: int = 3
    start: pathlib.Path | None = None
    feature_cache: pathlib.Path | None = None
    cached_tokens: int = 1_000_000
    seed: int = 1
    torch_device: str = "auto"
    resume: bool = False
    checkpoint_every_s: float = 120.0
    held_out_tokens: int = 20_000
    measure_share: float = 0.1
    measure_at_least_s: float = 10.0
    weight_dtype: str = "bfloat16"

    @property
    def form_name(self) -> str:
        """As cards have it: the adapter's form, or `medusa`."""
        return self.form.value if self.kind is drafter_file.DrafterKind.ADAPTER else "medusa"
