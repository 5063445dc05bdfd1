"""Pretrains the demo target: resumable, with a wall-clock budget into which the learning-rate schedule is fitted.

Matrices of the layers are trained by Muon (orthogonalised momentum), the tied embedding and the norms by AdamW.
Progress is the larger of (time spent / time allowed) and (steps done / steps allowed). Learning rates warm up,
stay, and fall linearly to zero over the last part; the last `LONG_SHARE` of the run is on long sequences, so that
prompts of 2,048 tokens and their answers are inside what the model has seen. Batches are drawn by (seed, step) alone:
resuming goes on with the batch that was next.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy
import numpy.typing
import torch

from milliner.demo import network

Ids = numpy.typing.NDArray[numpy.uint16]

LONG_SHARE = 0.2
"""Share of the run on long sequences (arbitrary: enough for about two million tokens of them)."""

DECAY_SHARE = 0.6
"""Share of the run, at its end, over which the learning rate falls to zero (arbitrary; long decays suit short runs)."""


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """What a run is: sizes, batches, schedule, budget. All of it goes into the log's first line."""

    shape: network.Shape = field(default_factory=network.Shape)
    batch_sequences: int = 8
    sequence_tokens: int = 512
    long_batch_sequences: int = 2
    long_sequence_tokens: int = 3072
    learning_rate: float = 1.5e-3
    matrix_learning_rate: float = 2.0e-3
    warmup_steps: int = 60
    weight_decay: float = 0.1
    gradient_clip: float = 1.0
    seed: int = 20_250_321
    max_steps: int = 9_000
    max_minutes: float = 55.0
    checkpoint_every_s: float = 180.0
    evaluation_tokens: int = 49_152
    compile: bool = True


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a running pretraining."""

    step: int
    tokens: int
    share: float
    loss: float
    held_out_loss: float | None
    rate_share: float
    tokens_per_s: float
    eta_s: float


class Run:
    """One pretraining over token ids (`uint16` arrays, documents joined by end-of-text). Synchronous."""

    def __init__(
        self,
        config: PretrainConfig,
        folder: pathlib.Path,
        train: Ids,
        held_out: Ids,
    ) -> None:
        self.config = config
        self.folder = folder
        self._train, self._held_out = train, held_out
        torch.manual_seed(config.seed)
        self.network = network.Network(config.shape)
        matrices = [p for name, p in self.network.named_parameters() if p.ndim == 2 and name != "embedding.weight"]
        vectors = [p for p in self.network.parameters() if p.ndim == 1]
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                matrices,
                lr=config.matrix_learning_rate,
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [self.network.embedding.weight, *vectors],
                lr=config.learning_rate,
                betas=(0.9, 0.95),
                weight_decay=0.0,
                fused=True,
            ),
        )
        self._peaks = (config.matrix_learning_rate, config.learning_rate)
        self.step = 0
        self.tokens = 0
        self.elapsed_s = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpoint = folder / "pretrain.pt"
        self._log = folder / "pretrain.jsonl"
        if self._checkpoint.is_file():
            self._load()
        if config.compile:
            self.network.compile_parts()

    @property
    def share(self) -> float:
        """How far the run is, 0 to 1."""
        return max(self.elapsed_s / (60 * self.config.max_minutes), self.step / self.config.max_steps)

    def train(self, report: Callable[[Progress], None]) -> None:
        """Trains to the end of the budget; calls `report` about every ten steps; checkpoints as configured."""
        self._write(
            {"event": "start", "step": self.step, "config": asdict(self.config), "train_tokens": len(self._train)}
        )
        mark, mark_tokens, mark_loss, losses = time.monotonic(), self.tokens, 0.0, 0
        saved = mark
        while (share := self.share) < 1.0:
            began = time.monotonic()
            mark_loss += self._one_step(share)
            losses += 1
            now = time.monotonic()
            self.elapsed_s += now - began
            due = now - saved > self.config.checkpoint_every_s
            if losses >= 10 or due:
                rate = (self.tokens - mark_tokens) / (now - mark)
                held_out = self._save_and_evaluate() if due else None
                eta_s = self.elapsed_s * (1 - share) / max(share, 1e-6)
                progress = Progress(
                    self.step, self.tokens, share, mark_loss / losses, held_out, self._rate(share), rate, eta_s
                )
                self._write({"event": "progress", **asdict(progress)})
                report(progress)
                mark, mark_tokens, mark_loss, losses = time.monotonic(), self.tokens, 0.0, 0
                saved = mark if due else saved
        self.save()
        self._write({"event": "end", "step": self.step, "tokens": self.tokens, "elapsed_s": self.elapsed_s})

    def _save_and_evaluate(self) -> float:
        began = time.monotonic()
        self.save()
        loss = self.held_out_loss(self.config.evaluation_tokens)
        self.elapsed_s += time.monotonic() - began
        return loss

    def _one_step(self, share: float) -> float:
        config = self.config
        long = share >= 1 - LONG_SHARE
        length = config.long_sequence_tokens if long else config.sequence_tokens
        count = config.long_batch_sequences if long else config.batch_sequences
        ids, following = self._batch(count, length)
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * self._rate(share)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.network(ids, following)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += count * length
        return float(loss.detach())

    def _rate(self, share: float) -> float:
        """The learning rates' share of their peaks."""
        warm = min(1.0, (self.step + 1) / self.config.warmup_steps)
        return warm * min(1.0, max(0.0, 1.0 - share) / DECAY_SHARE)

    def _batch(self, count: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random windows of the training text: ids and next ids, both [B, T]."""
        generator = numpy.random.default_rng([self.config.seed, self.step])
        starts = generator.integers(0, len(self._train) - length - 1, size=count)
        rows = numpy.stack([self._train[start : start + length + 1] for start in starts]).astype(numpy.int64)
        windows = torch.from_numpy(rows)
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    @torch.no_grad()
    def held_out_loss(self, max_tokens: int | None = None) -> float:
        """Mean loss in nats per token over the held-out text, in the windows and precision of training."""
        length = self.config.sequence_tokens
        text = torch.from_numpy(self._held_out.astype(numpy.int64))
        available = (len(text) - 1) // length
        rows = min(available, (max_tokens or len(text)) // length)
        starts = [index * available // rows * length for index in range(rows)]  # spread over all documents
        count = min(self.config.batch_sequences, rows)
        losses = []
        for first in range(0, rows - count + 1, count):  # full batches only: another size would be compiled anew
            windows = torch.stack([text[start : start + length + 1] for start in starts[first : first + count]])
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(float(self.network(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())))
        return sum(losses) / len(losses)

    def save(self) -> None:
        """Writes the checkpoint beside the log, replacing the last one only once it is whole."""
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
                "step": self.step,
                "tokens": self.tokens,
                "elapsed_s": self.elapsed_s,
            },
            partial,
        )
        partial.replace(self._checkpoint)

    def _load(self) -> None:
        state = torch.load(self._checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]

    def _write(self, line: dict[str, object]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
