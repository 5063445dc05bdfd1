"""Trains an adapter or Medusa heads for a frozen target: the work behind `milliner train-adapter`.

The target reads windows of text; the drafter learns to predict its distributions (`drafter_objectives`). Windows are
drawn by (seed, step), so a run that is resumed goes on as if it had not stopped. The run ends after `steps`, or earlier
when `max_minutes` are spent; the learning rate follows whichever is nearer to its end. Synchronous, on one process.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import torch

from milliner.core import errors
from milliner.model import (
    digest,
    drafter_checkpoint,
    drafter_config,
    drafter_features,
    drafter_file,
    drafter_objectives,
    drafter_setup,
    drafter_target,
    drafter_text,
)

TALLY_EVERY_STEPS = 8  # agreement and overlap in training are looked at every so many steps: they cost a third of one
REPORT_EVERY_S = 2.0  # arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One report: means since the last one. `share` of the run is done, 0 … 1; the report of the last step says 1.

    `agreement` and `expected_acceptance` are those of the report before where no step since then was looked at.
    """

    step: int
    share: float
    loss: float
    agreement: float
    expected_acceptance: float
    tokens_per_s: float
    eta_s: float


def train(
    config: drafter_config.TrainingConfig,
    report: Callable[[TrainingProgress], None],
    *,
    on_measuring: Callable[[float], None] = lambda _: None,
) -> drafter_file.Card:
    """Trains, measures on held-out text, writes the folder `config.out` and returns its card.

    `on_measuring` hears how much of the measuring is done, 0 … 1; first 0, when the last step of training is done.

    Raises (*expected*) `ConfigError` naming the option: an unreadable or too short text, a device that is not there, a
    checkpoint of another run; `SplitOutsideModel`; what `Checkpoint.open` raises.
    """
    run = _Run(config)
    run.train(report)
    return run.finish(on_measuring)


class _Run:
    def __init__(self, config: drafter_config.TrainingConfig) -> None:
        self.config = config
        self._torch_device = drafter_setup.torch_device(config.torch_device)
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
        self._drafter, self._objective = drafter_setup.drafter_and_objective(config, self._target)
        self._drafter.to(self._torch_device).train().requires_grad_(True)
        width = self._target.checkpoint.hidden_size
        self._learning_rate = config.learning_rate or drafter_setup.default_learning_rate(width)
        self._optimizers = drafter_setup.optimizers(self._drafter, self._learning_rate)
        config.out.mkdir(parents=True, exist_ok=True)
        self._checkpoint = drafter_checkpoint.DrafterCheckpoint(config.out, identity=self._identity())
        self._counters = drafter_checkpoint.Counters()
        if config.resume and self._checkpoint.exists:
            self._counters = self._checkpoint.load(self._drafter, self._optimizers, torch_device=self._torch_device)

    def _feature_source(self) -> drafter_features.FeatureSource:
        config = self.config
        fresh = drafter_features.FreshFeatures(self._text, self._target)
        if config.feature_cache is None:
            return fresh
        identity = {"--model": self._digest, "--split-layer": str(config.split_layer), "--text": self._text.digest}
        lengths = (config.window_tokens, config.long_tokens) if config.long_tokens else (config.window_tokens,)
        with drafter_setup.autocast(self._torch_device):
            return drafter_features.cached(
                config.feature_cache, fresh, lengths=lengths, num_tokens=config.cached_tokens, identity=identity
            )

    @property
    def _share(self) -> float:
        spent = self._counters.elapsed_s / (60 * self.config.max_minutes) if self.config.max_minutes else 0.0
        return max(spent, self._counters.step / self.config.steps)

    def train(self, report: Callable[[TrainingProgress], None]) -> None:
        mark, mark_tokens, losses = time.monotonic(), self._counters.tokens, 0.0
        tally, count, saved = drafter_objectives.Tally(), 0, mark
        looked_at = tally
        while (share := self._share) < 1.0:
            began = time.monotonic()
            tallied = self._counters.step % TALLY_EVERY_STEPS == 0 or not looked_at.places
            loss, seen = self._one_step(share, with_tally=tallied)
            losses, tally, count = losses + loss, tally + seen, count + 1
            now = time.monotonic()
            self._counters.elapsed_s += now - began
            if now - saved > self.config.checkpoint_every_s:
                self.save()
                saved = now
            looked_at = tally if tally.places else looked_at
            if (tally.places and now - mark > REPORT_EVERY_S) or self._share >= 1.0:
                report(
                    TrainingProgress(
                        step=self._counters.step,
                        share=min(1.0, self._share),
                        loss=losses / count,
                        agreement=looked_at.agreed / looked_at.places,
                        expected_acceptance=looked_at.overlap / looked_at.places,
                        tokens_per_s=(self._counters.tokens - mark_tokens) / (now - mark),
                        eta_s=self._counters.elapsed_s * (1.0 / self._share - 1.0) if self._share < 1.0 else 0.0,
                    )
                )
                mark, mark_tokens, losses = time.monotonic(), self._counters.tokens, 0.0
                tally, count = drafter_objectives.Tally(), 0

    def _one_step(self, share: float, *, with_tally: bool = True) -> tuple[float, drafter_objectives.Tally]:
        config = self.config
        long = config.long_tokens > 0 and share >= 0.75
        length = config.long_tokens if long else config.window_tokens
        count = max(1, config.batch_windows * config.window_tokens // length)
        warm = min(1.0, (self._counters.step + 1) / 20)
        rate = self._learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
        for group in (group for optimizer in self._optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        with drafter_setup.autocast(self._torch_device):
            features = self._source.batch(count=count, length=length, seed=config.seed, step=self._counters.step)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self._counters.step)
            loss, tally = self._objective.loss(features, generator=generator, with_tally=with_tally)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._drafter.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._counters.step += 1
        self._counters.tokens += count * length
        return float(loss.detach()), tally

    def save(self) -> None:
        """Writes the checkpoint."""
        self._checkpoint.save(self._drafter, self._optimizers, self._counters)

    def finish(self, on_measuring: Callable[[float], None] = lambda _: None) -> drafter_file.Card:
        """Measures, writes weights and card, removes the checkpoint."""
        config = self.config
        card = drafter_file.Card(
            kind=config.kind,
            form=config.form_name,
            model_digest=self._digest,
            split_layer=config.split_layer,
            dtype=config.weight_dtype,
            sizes=drafter_file.sizes_of(self._drafter),
            figures=self._figures(on_measuring),
            training_text_digest=self._text.digest,
            steps=self._counters.step,
            training_tokens=self._counters.tokens,
            hardware=drafter_setup.hardware(self._torch_device),
        )
        drafter_file.save(config.out, self._drafter, card)
        self._checkpoint.remove()
        return card

    def _figures(self, on_measuring: Callable[[float], None]) -> drafter_file.Figures:
        """Over `held_out_tokens`, or fewer where that takes long beside the training; one batch at least."""
        config = self.config
        self._drafter.eval()
        batches = self._text.held_out_batches(
            length=config.window_tokens,
            max_tokens=config.held_out_tokens,
            count=1 if self._torch_device.type == "cpu" else 4,
        )
        limit_s = max(config.measure_at_least_s, config.measure_share * self._counters.elapsed_s)
        tally, began = drafter_objectives.Tally(), time.monotonic()
        on_measuring(0.0)
        for done, ids in enumerate(batches, start=1):
            tally = tally + self._objective.tally(self._target.features(ids))
            spent_s = time.monotonic() - began
            if spent_s >= limit_s or done == len(batches):
                break
            on_measuring(max(done / len(batches), spent_s / limit_s))
        on_measuring(1.0)
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
