"""Medusa heads: the draft source of the baseline U-Medusa. Each guesses one of the next tokens from one deep state.

Head k (1 ≤ k ≤ K) is a residual block on the *normed* final hidden state, followed by the target's frozen lm_head:
`x + SiLU(W_k x + b_k)`; from position t it guesses token t + 1 + k, while the target itself gives token t + 1. The form
is Medusa-1's (arXiv 2401.10774) with the lm_head shared in place of one per head. Runs on the executor thread.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn


@dataclasses.dataclass(frozen=True, slots=True)
class MedusaConfig:
    """Sizes: K heads of width D."""

    hidden_size: int
    num_heads: int


class MedusaHeads(nn.Module):
    """K residual blocks. With zero weights, where training starts, every head repeats the target's own next guess."""

    def __init__(self, config: MedusaConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_heads))
        for block in self.blocks:
            nn.init.zeros_(block.weight)  # type: ignore[arg-type]
            nn.init.zeros_(block.bias)  # type: ignore[arg-type]

    def forward(self, normed: torch.Tensor) -> torch.Tensor:
        """Normed final hidden states [..., D] -> [K, ..., D], ready for `ModelSlice.project`."""
        return torch.stack([normed + F.silu(block(normed)) for block in self.blocks])
