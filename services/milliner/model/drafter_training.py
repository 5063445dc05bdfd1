"""Trains an adapter or Medusa heads for a frozen target: the work behind `milliner train-adapter`.

The target reads windows of text; the drafter learns to predict its distributions (`drafter_objectives`). Windows are
drawn by (seed, step), so a run that is resumed goes on as if it had not stopped. The run ends after `steps`, or earlier
when `max_minutes` are spent; the learning rate follows whichever is nearer to its end. Synchronous, on one process.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from milliner.core import errors
from milliner.model import adapter as adapters
from milliner.model import (
    digest,
    drafter_features,
    drafter_file,
    drafter_objectives,
    drafter_start,
    drafter_target,
    drafter_text,
    medusa,
)

CHECKPOINT_FILE = "training.pt"
TALLY_EVERY_STEPS = 8  # agreement and overlap in training are looked at every so many steps: they cost a third of one


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """What to train, on what, for how long. `held_out` empty: the last 3 % of the text is kept apart instead.

    `long_tokens` 0: no long windows; else the last quarter of the run uses windows of that length, so that drafting
    holds up at long contexts. `learning_rate` None: `default_learning_rate`. `start` names an adapter's folder whose
    weights are the first; None: the target's own layer. `feature_cache` names a file for the target's hidden states
    over `cached_tokens` tokens, which are then trained on many times; None: the target reads fresh text at every step.
    """

    model: Path
    split_layer: int
    text: tuple[Path, ...]
    out: Path
    held_out: tuple[Path, ...] = ()
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
    start: Path | None = None
    feature_cache: Path | None = None
    cached_tokens: int = 1_000_000
    seed: int = 1
    torch_device: str = "auto"
    resume: bool = False
    checkpoint_every_s: float = 120.0
    held_out_tokens: int = 20_000
    weight_dtype: str = "bfloat16"


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One report: means since the last one. `share` of the run is done, 0 … 1."""

    step: int
    share: float
    loss: float
    agreement: float
    expected_acceptance: float
    tokens_per_s: float
    eta_s: float


def train(config: TrainingConfig, report: Callable[[TrainingProgress], None]) -> drafter_file.Card:
    """Trains, measures on held-out text, writes the folder `config.out` and returns its card.

    Raises (*expected*) `ConfigError` naming the option: an unreadable or too short text, a device that is not there, a
    checkpoint of another run; `SplitOutsideModel`; what `Checkpoint.open` raises.
    """
    run = _Run(config)
    run.train(report)
    return run.finish()


class _Run:
    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self._torch_device = _torch_device(config.torch_device)
        on_gpu = self._torch_device.type == "cuda"
        self._target = drafter_target.FrozenTarget(
            config.model,
            split_layer=config.split_layer,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            torch_device=self._torch_device,
        )
        longest = max(config.window_tokens, config.long_tokens)
        if longest > self._target.max_positions:
            raise errors.ConfigError(
                f"is {longest} and the model's context is {self._target.max_positions}: use at most that",
                field="--window-tokens",
            )
        self._text = drafter_text.load(config.model, config.text, held_out=config.held_out, window_tokens=longest)
        self._digest = digest.model_digest(config.model)
        self._source = self._feature_source()
        torch.manual_seed(config.seed)
        self._drafter, self._objective = _build(config, self._target)
        self._drafter.to(self._torch_device).train().requires_grad_(True)
        width = self._target.checkpoint.hidden_size
        self._learning_rate = config.learning_rate or default_learning_rate(width)
        self._optimizers = _optimizers(self._drafter, self._learning_rate)
        self._step, self._tokens, self._elapsed_s = 0, 0, 0.0
        config.out.mkdir(parents=True, exist_ok=True)
        self._checkpoint = config.out / CHECKPOINT_FILE
        if config.resume and self._checkpoint.is_file():
            self._load()

    def _feature_source(self) -> drafter_features.FeatureSource:
        config = self.config
        fresh = drafter_features.FreshFeatures(self._text, self._target)
        if config.feature_cache is None:
            return fresh
        identity = {"--model": self._digest, "--split-layer": str(config.split_layer), "--text": self._text.digest}
        lengths = (config.window_tokens, config.long_tokens) if config.long_tokens else (config.window_tokens,)
        with torch.autocast(self._torch_device.type, torch.bfloat16, enabled=_bfloat16_is_fast(self._torch_device)):
            return drafter_features.cached(
                config.feature_cache, fresh, lengths=lengths, num_tokens=config.cached_tokens, identity=identity
            )

    @property
    def _share(self) -> float:
        spent = self._elapsed_s / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return max(spent, self._step / self.config.steps)

    def train(self, report: Callable[[TrainingProgress], None]) -> None:
        mark, mark_tokens, losses = time.monotonic(), self._tokens, 0.0
        tally, count, saved = drafter_objectives.Tally(), 0, mark
        while (share := self._share) < 1.0:
            began = time.monotonic()
            loss, seen = self._one_step(share)
            losses, tally, count = losses + loss, tally + seen, count + 1
            now = time.monotonic()
            self._elapsed_s += now - began
            if now - saved > self.config.checkpoint_every_s:
                self._save()
                saved = now
            if tally.places and (now - mark > 2.0 or self._share >= 1.0):
                report(
                    TrainingProgress(
                        step=self._step,
                        share=min(1.0, self._share),
                        loss=losses / count,
                        agreement=tally.agreed / tally.places,
                        expected_acceptance=tally.overlap / tally.places,
                        tokens_per_s=(self._tokens - mark_tokens) / (now - mark),
                        eta_s=self._elapsed_s * (1.0 / self._share - 1.0) if self._share < 1.0 else 0.0,
                    )
                )
                mark, mark_tokens, losses = time.monotonic(), self._tokens, 0.0
                tally, count = drafter_objectives.Tally(), 0

    def _one_step(self, share: float) -> tuple[float, drafter_objectives.Tally]:
        config = self.config
        long = config.long_tokens > 0 and share >= 0.75
        length = config.long_tokens if long else config.window_tokens
        count = max(1, config.batch_windows * config.window_tokens // length)
        warm = min(1.0, (self._step + 1) / 20)
        rate = self._learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        with torch.autocast(self._torch_device.type, torch.bfloat16, enabled=_bfloat16_is_fast(self._torch_device)):
            features = self._source.batch(count=count, length=length, seed=config.seed, step=self._step)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self._step)
            with_tally = self._step % TALLY_EVERY_STEPS == 0
            loss, tally = self._objective.loss(features, generator=generator, with_tally=with_tally)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._drafter.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._step += 1
        self._tokens += count * length
        return float(loss.detach()), tally

    def finish(self) -> drafter_file.Card:
        """Measures, writes weights and card, removes the checkpoint."""
        config = self.config
        card = drafter_file.Card(
            kind=config.kind,
            form=config.form.value if config.kind is drafter_file.DrafterKind.ADAPTER else "medusa",
            model_digest=self._digest,
            split_layer=config.split_layer,
            dtype=config.weight_dtype,
            sizes=drafter_file.sizes_of(self._drafter),
            figures=self._figures(),
            training_text_digest=self._text.digest,
            steps=self._step,
            training_tokens=self._tokens,
            hardware=_hardware(self._torch_device),
        )
        drafter_file.save(config.out, self._drafter, card)
        self._checkpoint.unlink(missing_ok=True)
        return card

    def _figures(self) -> drafter_file.Figures:
        self._drafter.eval()
        tally = drafter_objectives.Tally()
        for ids in self._text.held_out_windows(
            length=self.config.window_tokens, max_tokens=self.config.held_out_tokens
        ):
            tally = tally + self._objective.tally(self._target.features(ids))
        return drafter_file.Figures(
            greedy_agreement=round(tally.agreed / tally.places, 4),
            expected_acceptance=round(tally.overlap / tally.places, 4),
            acceptance_length=round(1.0 + tally.accepted / tally.rounds, 4),
            held_out_tokens=tally.places,
        )

    def _identity(self) -> dict[str, str]:
        """What a checkpoint must agree on to be resumed."""
        config = self.config
        return {
            "--kind": config.kind.value,
            "--form": config.form.value,
            "--split-layer": str(config.split_layer),
            "--model": str(config.model.resolve()),
            "--text": self._text.digest,
        }

    def _save(self) -> None:
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "identity": self._identity(),
                "drafter": self._drafter.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
                "step": self._step,
                "tokens": self._tokens,
                "elapsed_s": self._elapsed_s,
            },
            partial,
        )
        partial.replace(self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True, map_location=self._torch_device)
        for option, value in self._identity().items():
            if state["identity"].get(option) != value:
                raise errors.ConfigError(
                    f"{self._checkpoint} is of a run with another {option}: leave --resume out or choose another --out",
                    field="--resume",
                )
        self._drafter.load_state_dict(state["drafter"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._step, self._tokens, self._elapsed_s = state["step"], state["tokens"], state["elapsed_s"]


def _build(
    config: TrainingConfig, target: drafter_target.FrozenTarget
) -> tuple[adapters.Adapter | medusa.MedusaHeads, drafter_objectives.Objective]:
    if config.kind is drafter_file.DrafterKind.MEDUSA:
        width = target.checkpoint.hidden_size
        heads = medusa.MedusaHeads(medusa.MedusaConfig(hidden_size=width, num_heads=config.num_heads))
        return heads, drafter_objectives.MedusaObjective(heads, target)
    sizes = adapters.AdapterConfig.from_target(target.checkpoint.config, form=config.form)
    drafter = adapters.Adapter(sizes)
    if config.start is None:
        drafter_start.from_target(drafter, target)
    else:
        drafter_start.from_folder(drafter, config.start)
    return drafter, drafter_objectives.AdapterObjective(drafter, target, num_passes=config.num_passes)


def default_learning_rate(hidden_size: int) -> float:
    """Muon's peak rate: 0.01 at width 256, where 0.003 to 0.025 were tried (docs/demo-model.md, 2026-11-21).

    Weights shrink as 1 / √width where updates do not, hence the scaling; it was not tried at other widths.
    """
    return 0.01 * math.sqrt(256 / hidden_size)


def _optimizers(drafter: torch.nn.Module, learning_rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for matrices (its updates scaled to AdamW's size, so that one learning rate serves both), AdamW for vectors.

    On the demo model Muon needs a fraction of AdamW's steps; docs/demo-model.md has the comparison.
    """
    matrices = [parameter for parameter in drafter.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in drafter.parameters() if parameter.ndim != 2]
    return (
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(vectors, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    )


def _torch_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise errors.ConfigError(f"{name!r} is no device of torch: use auto, cpu or cuda", field="--device") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise errors.ConfigError("cuda is asked for and torch sees no GPU here: use cpu", field="--device")
    return chosen


def _bfloat16_is_fast(torch_device: torch.device) -> bool:
    """Whether autocast to bfloat16 pays: on GPUs and on CPUs with instructions for it."""
    return torch_device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _hardware(torch_device: torch.device) -> str:
    if torch_device.type == "cuda":
        return torch.cuda.get_device_name(torch_device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
