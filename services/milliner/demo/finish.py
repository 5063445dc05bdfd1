"""Runs the finish of the target's training (`cotrain`): resumable, within a wall-clock budget, as `pretrain` is.

Matrices by Muon, embedding and norms by AdamW; 20 steps of warm-up, then constant, then linear to zero over the last
60 % of the time. The draft layer learns faster than the target moves. The last eighth is on long sequences.
"""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy
import torch

from milliner.demo import cotrain, network, pretrain

LONG_SHARE = 0.12
DECAY_SHARE = 0.6
WARMUP_STEPS = 20


@dataclass(frozen=True, slots=True)
class FinishConfig:
    """Rates, batches and budget of the finish (chosen by a few runs of half a minute)."""

    split_layer: int = 2
    weights: cotrain.CotrainWeights = field(default_factory=cotrain.CotrainWeights)
    batch_sequences: int = 8
    sequence_tokens: int = 512
    long_batch_sequences: int = 2
    long_sequence_tokens: int = 2048
    target_rate: float = 1e-3
    draft_rate: float = 8e-3
    vector_rate: float = 8e-4
    seed: int = 99_000_000
    max_minutes: float = 12.0
    checkpoint_every_s: float = 120.0
    compile: bool = True


@dataclass(frozen=True, slots=True)
class FinishProgress:
    """Means since the last report: the target's loss, its divergence from the draft layer, and their agreement."""

    step: int
    tokens: int
    share: float
    loss: float
    divergence: float
    agreement: float
    eta_s: float


class FinishRun:
    """One finish over token ids; synchronous."""

    def __init__(
        self, config: FinishConfig, folder: pathlib.Path, target: network.Network, train: pretrain.Ids
    ) -> None:
        self.config = config
        self.network = cotrain.CotrainedNetwork(target, split_layer=config.split_layer, weights=config.weights)
        self._train = torch.from_numpy(train.astype(numpy.int64))
        self._checkpoint, self._log = folder / "finish.pt", folder / "finish.jsonl"
        named = list(self.network.named_parameters())
        matrices = [(name, p) for name, p in named if p.ndim == 2 and "embedding" not in name]
        self._muon = torch.optim.Muon(
            [
                {"params": [p for name, p in matrices if not name.startswith("draft")]},
                {"params": [p for name, p in matrices if name.startswith("draft")]},
            ],
            weight_decay=0.1,
            adjust_lr_fn="match_rms_adamw",
        )
        vectors = [p for name, p in named if p.ndim == 1 or "embedding" in name]
        self._adamw = torch.optim.AdamW(vectors, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        self.step, self.tokens, self.elapsed_s = 0, 0, 0.0
        if self._checkpoint.is_file():
            self._load()
        if config.compile:
            self.network.compile_parts()

    @property
    def share(self) -> float:
        return self.elapsed_s / (60 * self.config.max_minutes)

    def train(self, report: Callable[[FinishProgress], None]) -> None:
        """Trains to the end of the budget and keeps the checkpoint of the end."""
        sums, count, saved = [0.0, 0.0, 0.0], 0, time.monotonic()
        while (share := self.share) < 1.0:
            began = time.monotonic()
            self._one_step(share)
            now = time.monotonic()
            self.elapsed_s += now - began
            sums, count = [a + b for a, b in zip(sums, self.network.last, strict=True)], count + 1
            if count == 10 or self.share >= 1.0:
                loss, divergence, agreement = (value / count for value in sums)
                eta_s = self.elapsed_s * (1.0 / self.share - 1.0)
                progress = FinishProgress(self.step, self.tokens, self.share, loss, divergence, agreement, eta_s)
                with self._log.open("a") as log:
                    log.write(json.dumps(asdict(progress)) + "\n")
                report(progress)
                sums, count = [0.0, 0.0, 0.0], 0
            if now - saved > self.config.checkpoint_every_s:
                self.save()
                saved = now
        self.save()

    def _one_step(self, share: float) -> None:
        config = self.config
        long = share > 1.0 - LONG_SHARE
        length = config.long_sequence_tokens if long else config.sequence_tokens
        count = config.long_batch_sequences if long else config.batch_sequences
        scale = min(1.0, (self.step + 1) / WARMUP_STEPS) * min(1.0, (1.0 - share) / DECAY_SHARE)
        for group, rate in zip(self._muon.param_groups, (config.target_rate, config.draft_rate), strict=True):
            group["lr"] = rate * scale
        for group in self._adamw.param_groups:
            group["lr"] = config.vector_rate * scale
        generator = torch.Generator().manual_seed(config.seed + self.step)
        starts = torch.randint(0, len(self._train) - length - 1, (count,), generator=generator).tolist()
        windows = torch.stack([self._train[start : start + length + 1] for start in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.network(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in (self._muon, self._adamw):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += count * length

    def save(self) -> None:
        """Writes the checkpoint, replacing the last one only once it is whole."""
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(),
                "optimizers": [self._muon.state_dict(), self._adamw.state_dict()],
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
        for optimizer, saved in zip((self._muon, self._adamw), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.tokens, self.elapsed_s = state["step"], state["tokens"], state["elapsed_s"]
