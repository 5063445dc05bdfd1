"""The training loop of the demo target's two stages: resumable, with a wall-clock budget that the rates fit into.

Progress is the larger of (time spent / time allowed) and (steps done / steps allowed). Learning rates warm up, stay,
and fall linearly to zero over the last `decay_share` of the run; the last `long_share` is on long sequences, so that
prompts of 2,048 tokens and their answers are inside what the model has seen. Batches are drawn by seed, step and share
alone: resuming goes on with the batch that was next. What is learnt is a `Task`'s: `pretrain`, `finish` and `recall`
have one each. Synchronous.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy
import numpy.typing
import torch

Ids = numpy.typing.NDArray[numpy.uint16]

Draw = Callable[[numpy.random.Generator, int, int, float], numpy.typing.NDArray[numpy.int64]]
"""Draws a batch: so many windows of so many ids, [B, T + 1], at a share of the run."""

REPORT_EVERY_STEPS = 10  # arbitrary


def windows_of(text: Ids) -> Draw:
    """Windows that start anywhere in `text`, the same throughout a run."""

    def draw(
        generator: numpy.random.Generator, count: int, length: int, share: float
    ) -> numpy.typing.NDArray[numpy.int64]:
        starts = generator.integers(0, len(text) - length - 1, size=count)
        return numpy.stack([text[start : start + length + 1] for start in starts]).astype(numpy.int64)

    return draw


@dataclass(frozen=True, slots=True)
class Schedule:
    """Batches, rates' shape and budget of a run. All of it goes into the log."""

    seed: int
    max_minutes: float
    max_steps: int | None = None  # None: time alone ends the run
    batch_sequences: int = 8
    sequence_tokens: int = 512
    long_batch_sequences: int = 2
    long_sequence_tokens: int = 2048
    long_share: float = 0.2
    warmup_steps: int = 20
    decay_share: float = 0.6  # arbitrary; long decays suit short runs
    gradient_clip: float = 1.0
    checkpoint_every_s: float = 180.0

    def share(self, *, elapsed_s: float, step: int) -> float:
        """How far a run is, 0 to 1 and a little beyond."""
        steps = step / self.max_steps if self.max_steps else 0.0
        return max(elapsed_s / (60 * self.max_minutes), steps)

    def rate_share(self, *, share: float, step: int) -> float:
        """The learning rates' share of their peaks."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        return warm * min(1.0, max(0.0, 1.0 - share) / self.decay_share)

    def batch(self, share: float) -> tuple[int, int]:
        """Sequences of the next batch, and tokens of each."""
        if share >= 1.0 - self.long_share:
            return self.long_batch_sequences, self.long_sequence_tokens
        return self.batch_sequences, self.sequence_tokens


class Task(Protocol):
    """What is learnt: the loss, and the figures that a report means."""

    @property
    def network(self) -> torch.nn.Module: ...

    def loss(self, ids: torch.Tensor, following: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Of ids and next ids, both [B, T]: what is minimised, and figures by name."""
        ...

    def held_out_loss(self) -> float | None:
        """Looked at with every checkpoint; None where it is not worth its time."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: `figures` are means since the last one."""

    step: int
    tokens: int
    share: float
    figures: Mapping[str, float]
    held_out_loss: float | None
    rate_share: float
    tokens_per_s: float
    eta_s: float


class Loop:
    """One run of a task over batches that `draw` gives. Checkpoint and log are `folder`/`name`.*.

    The optimizers' learning rates are their peaks.
    """

    def __init__(
        self,
        task: Task,
        optimizers: Sequence[torch.optim.Optimizer],
        schedule: Schedule,
        *,
        draw: Draw,
        folder: pathlib.Path,
        name: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.step, self.tokens, self.elapsed_s = 0, 0, 0.0
        self._task, self._optimizers, self._schedule, self._draw = task, optimizers, schedule, draw
        self._peaks = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in optimizers]
        self._checkpoint, self._log = folder / f"{name}.pt", folder / f"{name}.jsonl"
        if self._checkpoint.is_file():
            self._load()

    @property
    def share(self) -> float:
        return self._schedule.share(elapsed_s=self.elapsed_s, step=self.step)

    def train(self, report: Callable[[Progress], None]) -> None:
        """Trains to the end of the budget; reports every few steps; checkpoints as scheduled and at the end."""
        self._write({"event": "start", "step": self.step, "schedule": asdict(self._schedule)})
        mark = saved = time.monotonic()
        mark_tokens, seen = self.tokens, list[Mapping[str, float]]()
        while (share := self.share) < 1.0:
            began = time.monotonic()
            seen.append(self.one_step(share))
            now = time.monotonic()
            self.elapsed_s += now - began
            due = now - saved > self._schedule.checkpoint_every_s
            if len(seen) < REPORT_EVERY_STEPS and not due and self.share < 1.0:
                continue
            tokens_per_s = (self.tokens - mark_tokens) / (now - mark)
            held_out_loss = self._save_and_evaluate() if due else None
            progress = self._progress(seen, tokens_per_s=tokens_per_s, held_out_loss=held_out_loss)
            self._write({"event": "progress", **asdict(progress)})
            report(progress)
            mark, mark_tokens = time.monotonic(), self.tokens
            seen.clear()
            saved = mark if due else saved
        self.save()
        self._write({"event": "end", "step": self.step, "tokens": self.tokens, "elapsed_s": self.elapsed_s})

    def one_step(self, share: float) -> Mapping[str, float]:
        """One batch and one step of the optimizers, `share` into the run; the task's figures."""
        schedule = self._schedule
        count, length = schedule.batch(share)
        ids, following = self._batch(count, length, share)
        scale = schedule.rate_share(share=share, step=self.step)
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * scale
        with torch.autocast("cpu", torch.bfloat16):
            loss, figures = self._task.loss(ids, following)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._task.network.parameters(), schedule.gradient_clip)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += count * length
        return figures

    def save(self) -> None:
        """Writes the checkpoint beside the log, replacing the last one only once it is whole."""
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "network": self._task.network.state_dict(),
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
        self._task.network.load_state_dict(state["network"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]

    def _batch(self, count: int, length: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and next ids of this step, both [B, T]."""
        generator = numpy.random.default_rng([self._schedule.seed, self.step])
        windows = torch.from_numpy(self._draw(generator, count, length, share))
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def _save_and_evaluate(self) -> float | None:
        began = time.monotonic()
        self.save()
        loss = self._task.held_out_loss()
        self.elapsed_s += time.monotonic() - began
        return loss

    def _progress(
        self, seen: Sequence[Mapping[str, float]], *, tokens_per_s: float, held_out_loss: float | None
    ) -> Progress:
        share = self.share
        return Progress(
            step=self.step,
            tokens=self.tokens,
            share=share,
            figures={name: sum(figures[name] for figures in seen) / len(seen) for name in seen[0]},
            held_out_loss=held_out_loss,
            rate_share=self._schedule.rate_share(share=share, step=self.step),
            tokens_per_s=tokens_per_s,
            eta_s=max(0.0, self.elapsed_s * (1.0 / max(share, 1e-6) - 1.0)),
        )

    def _write(self, line: dict[str, object]) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
