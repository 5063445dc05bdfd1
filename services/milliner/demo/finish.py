"""The finish of the target's training (`cotrain`), in the loop of `training_loop`.

Matrices by Muon, embedding and norms by AdamW. The draft layer learns faster than the target moves.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from milliner.demo import cotrain, network, training_loop


def schedule(*, max_minutes: float = 12.0) -> training_loop.Schedule:
    """The schedule of the shipped model: the last eighth is on long sequences."""
    return training_loop.Schedule(seed=99_000_000, max_minutes=max_minutes, long_share=0.12, checkpoint_every_s=120.0)


@dataclass(frozen=True, slots=True)
class FinishConfig:
    """Rates and schedule of the finish (rates chosen by a few runs of half a minute)."""

    split_layer: int = 2
    weights: cotrain.CotrainWeights = field(default_factory=cotrain.CotrainWeights)
    schedule: training_loop.Schedule = field(default_factory=schedule)
    target_rate: float = 1e-3
    draft_rate: float = 8e-3
    vector_rate: float = 8e-4
    compile: bool = True


class Cotraining:
    """The task: the target's loss and its divergence from the draft layer; their agreement is reported too."""

    def __init__(self, target: network.Network, config: FinishConfig) -> None:
        self.network = cotrain.CotrainedNetwork(target, split_layer=config.split_layer, weights=config.weights)

    def loss(self, ids: torch.Tensor, following: torch.Tensor) -> tuple[torch.Tensor, Mapping[str, float]]:
        total: torch.Tensor = self.network(ids, following)
        loss, divergence, agreement = self.network.last
        return total, {"loss": loss, "divergence": divergence, "agreement": agreement}

    def held_out_loss(self) -> None:
        """Not looked at in so short a run."""


class FinishRun:
    """One finish over token ids."""

    def __init__(
        self, config: FinishConfig, folder: pathlib.Path, target: network.Network, train: training_loop.Ids
    ) -> None:
        task = Cotraining(target, config)
        self.network = task.network
        self.loop = training_loop.Loop(
            task,
            _optimizers(self.network, config),
            config.schedule,
            draw=training_loop.windows_of(train),
            folder=folder,
            name="finish",
        )
        if config.compile:
            self.network.compile_parts()


def _optimizers(model: cotrain.CotrainedNetwork, config: FinishConfig) -> tuple[torch.optim.Optimizer, ...]:
    named = list(model.named_parameters())
    matrices = [(name, p) for name, p in named if p.ndim == 2 and "embedding" not in name]
    vectors = [p for name, p in named if p.ndim == 1 or "embedding" in name]
    return (
        torch.optim.Muon(
            [
                {"params": [p for name, p in matrices if not name.startswith("draft")], "lr": config.target_rate},
                {"params": [p for name, p in matrices if name.startswith("draft")], "lr": config.draft_rate},
            ],
            weight_decay=0.1,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(vectors, lr=config.vector_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )
