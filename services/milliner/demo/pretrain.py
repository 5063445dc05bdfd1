"""Pretrains the demo target: next-token loss, in the loop of `training_loop`.

Matrices of the layers are trained by Muon (orthogonalised momentum), the tied embedding and the norms by AdamW.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy
import torch

from milliner.demo import network, training_loop

EVALUATION_TOKENS = 49_152  # of held-out text, with every checkpoint (arbitrary)


def schedule(*, max_minutes: float = 55.0) -> training_loop.Schedule:
    """The schedule of the shipped model. A fifth of the run are about two million tokens of long sequences."""
    return training_loop.Schedule(
        seed=20_250_321, max_minutes=max_minutes, max_steps=9_000, long_sequence_tokens=3072, warmup_steps=60
    )


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Sizes, rates and schedule of a run."""

    shape: network.Shape = field(default_factory=network.Shape)
    schedule: training_loop.Schedule = field(default_factory=schedule)
    learning_rate: float = 1.5e-3
    matrix_learning_rate: float = 2.0e-3
    weight_decay: float = 0.1
    compile: bool = True


class NextToken:
    """The task: the network's own loss."""

    def __init__(self, config: PretrainConfig, held_out: training_loop.Ids) -> None:
        self._schedule, self._held_out = config.schedule, held_out
        torch.manual_seed(config.schedule.seed)
        self.network = network.Network(config.shape)

    def loss(self, ids: torch.Tensor, following: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, float]]:
        loss: torch.Tensor = self.network(ids, following)
        return loss, {"loss": float(loss.detach())}

    @torch.no_grad()
    def held_out_loss(self, max_tokens: int | None = EVALUATION_TOKENS) -> float:
        """Mean loss in nats per token over the held-out text (None: all), in the windows and precision of training."""
        length = self._schedule.sequence_tokens
        text = torch.from_numpy(self._held_out.astype(numpy.int64))
        available = (len(text) - 1) // length
        rows = min(available, (max_tokens or len(text)) // length)
        starts = [index * available // rows * length for index in range(rows)]  # spread over all documents
        count = min(self._schedule.batch_sequences, rows)
        losses = []
        for first in range(0, rows - count + 1, count):  # full batches only: another size would be compiled anew
            windows = torch.stack([text[start : start + length + 1] for start in starts[first : first + count]])
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(float(self.network(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())))
        return sum(losses) / len(losses)


class PretrainRun:
    """One pretraining over token ids."""

    def __init__(
        self,
        config: PretrainConfig,
        folder: pathlib.Path,
        train: training_loop.Ids,
        held_out: training_loop.Ids,
    ) -> None:
        self.task = NextToken(config, held_out)
        self.network = self.task.network
        self.loop = training_loop.Loop(
            self.task,
            optimizers(self.network, config),
            config.schedule,
            draw=training_loop.windows_of(train),
            folder=folder,
            name="pretrain",
        )
        if config.compile:
            self.network.compile_parts()


def optimizers(model: network.Network, config: PretrainConfig) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, AdamW for the tied embedding and the norms, at their peak rates."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and name != "embedding.weight"]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return (
        torch.optim.Muon(
            matrices,
            lr=config.matrix_learning_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(
            [model.embedding.weight, *vectors],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        ),
    )
