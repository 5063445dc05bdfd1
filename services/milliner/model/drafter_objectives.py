"""What a drafter is trained for and judged by: one objective per kind, over the features of text windows.

Both minimise the cross-entropy between the target's distribution and the draft distribution at the same place of the
text. Figures are taken along held-out text: for every place where a round could start, the drafts that the drafter
would make if the text went on as it does, compared with the target's choices there.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import nn

from milliner.model import adapter as adapters
from milliner.model import drafter_target, drafter_unroll, medusa

MAX_ROUND_DRAFTS = 8  # acceptance lengths are quoted for at most 8 drafts (docs/algorithms.md)
PASS_DISCOUNT = 0.85  # weight of a draft against the one before it: it counts only if that one is accepted (arbitrary)


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """Sums over places of text; `accepted` counts the drafts of rounds, `rounds` the rounds."""

    places: int = 0
    agreed: float = 0.0
    overlap: float = 0.0
    rounds: int = 0
    accepted: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


class Objective(Protocol):
    """A drafter with its loss and its figures."""

    @property
    def module(self) -> nn.Module: ...

    def loss(
        self, features: drafter_target.Features, *, generator: torch.Generator, with_tally: bool
    ) -> tuple[torch.Tensor, Tally]:
        """The training loss (a scalar with gradient); agreement and overlap of the first draft where asked for."""
        ...

    def tally(self, features: drafter_target.Features) -> Tally:
        """All figures of windows of held-out text."""
        ...


class AdapterObjective:
    """Trains an adapter; with deep states over `num_passes` steps on its own outputs."""

    def __init__(self, adapter: adapters.Adapter, target: drafter_target.FrozenTarget, *, num_passes: int) -> None:
        self.adapter = adapter
        self._target = target
        self._num_passes = num_passes if adapter.sees_deep_states else 1

    @property
    def module(self) -> nn.Module:
        return self.adapter

    def loss(
        self, features: drafter_target.Features, *, generator: torch.Generator, with_tally: bool
    ) -> tuple[torch.Tensor, Tally]:
        """A random boundary parts every window into prompt and answer; the answer's positions count."""
        batch, length, _ = features.hidden.shape
        first_known = torch.randint(1, max(2, length // 2), (batch,), generator=generator).to(features.hidden.device)
        if not self.adapter.sees_deep_states:
            first_known = torch.zeros_like(first_known)
        passes = drafter_unroll.unroll(
            self.adapter,
            features.hidden,
            features.deep,
            first_known=first_known,
            num_passes=self._num_passes,
            generator=generator,
        )
        own = torch.arange(length, device=features.hidden.device)
        counted = own >= first_known[:, None] + self._num_passes - 1  # [B, T]
        wanted = self._target.logits(features.deep[counted]).softmax(-1)  # [N, V]
        total = torch.zeros((), device=features.hidden.device)
        tally = Tally()
        for index, states in enumerate(passes):
            logits = self._target.project(self.adapter.output_norm(states[counted]))
            total = total + PASS_DISCOUNT**index * soft_cross_entropy(logits, wanted)
            if index == 0 and with_tally:
                tally = _first_draft(logits, wanted)
        return total / sum(PASS_DISCOUNT**index for index in range(len(passes))), tally

    @torch.no_grad()
    def tally(self, features: drafter_target.Features) -> Tally:
        """Rounds of up to `MAX_ROUND_DRAFTS` drafts from every position at which a whole round fits."""
        batch, length, _ = features.hidden.shape
        first_known = torch.ones(batch, dtype=torch.long, device=features.hidden.device)
        passes = drafter_unroll.unroll(
            self.adapter, features.hidden, features.deep, first_known=first_known, num_passes=MAX_ROUND_DRAFTS
        )
        target_logits = self._target.logits(features.deep.flatten(0, 1))
        wanted, choices = target_logits.softmax(-1), target_logits.argmax(-1).view(batch, length)
        tally = Tally()
        agreements: list[torch.Tensor] = []
        for index, states in enumerate(passes):
            if index and not self.adapter.sees_deep_states:
                agreements.append(agreements[0])
                continue
            logits = self._target.project(self.adapter.output_norm(states.flatten(0, 1)))
            agreements.append(logits.argmax(-1).view(batch, length) == choices)
            if index == 0:
                tally = _first_draft(logits, wanted)
        return tally + _rounds([agreed[:, index:] for index, agreed in enumerate(agreements)])


class MedusaObjective:
    """Trains Medusa heads: head k at position t predicts what the target says at t + k of the text."""

    def __init__(self, heads: medusa.MedusaHeads, target: drafter_target.FrozenTarget) -> None:
        self.heads = heads
        self._target = target

    @property
    def module(self) -> nn.Module:
        return self.heads

    def loss(
        self, features: drafter_target.Features, *, generator: torch.Generator, with_tally: bool
    ) -> tuple[torch.Tensor, Tally]:
        """All heads over all positions; `generator` is not needed."""
        logits, wanted = self._predict(features)
        tally = _first_draft(logits[0], wanted[0]) if with_tally else Tally()
        weights = [PASS_DISCOUNT**index for index in range(len(logits))]
        losses = [w * soft_cross_entropy(x, y) for w, x, y in zip(weights, logits, wanted, strict=True)]
        return torch.stack(losses).sum() / sum(weights), tally

    @torch.no_grad()
    def tally(self, features: drafter_target.Features) -> Tally:
        """Rounds of K drafts from every position at which all heads have something to predict."""
        logits, wanted = self._predict(features)
        batch = features.deep.shape[0]
        agreements = [(x.argmax(-1) == y.argmax(-1)).view(batch, -1) for x, y in zip(logits, wanted, strict=True)]
        return _first_draft(logits[0], wanted[0]) + _rounds(agreements)

    def _predict(self, features: drafter_target.Features) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per head its logits and the target's distributions, [B * (T - k), V] each."""
        distributions = self._target.logits(features.deep.flatten(0, 1)).softmax(-1)
        distributions = distributions.view(*features.deep.shape[:2], -1)
        states = self.heads(self._target.final_norm(features.deep))  # [K, B, T, D]
        logits, wanted = [], []
        for k, head_states in enumerate(states, start=1):
            logits.append(self._target.project(head_states[:, :-k].flatten(0, 1)))
            wanted.append(distributions[:, k:].flatten(0, 1))
        return logits, wanted


def soft_cross_entropy(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean of -Σ p log q over [N, V] draft logits and target probabilities, in nats."""
    loss: torch.Tensor = _SoftCrossEntropy.apply(logits, wanted)
    return loss


class _SoftCrossEntropy(torch.autograd.Function):
    """Loss and gradient, (softmax(logits) - p) / N, in one go: over [N, V] every pass through memory counts."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        log_q = logits.float().log_softmax(-1)
        loss = -torch.dot(log_q.flatten(), wanted.flatten()) / len(log_q)
        ctx.save_for_backward(log_q.exp_().sub_(wanted).div_(len(log_q)))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (of_logits,) = ctx.saved_tensors
        return of_logits.mul_(grad), None


@torch.no_grad()
def _first_draft(logits: torch.Tensor, wanted: torch.Tensor) -> Tally:
    overlap = torch.minimum(logits.softmax(-1), wanted).sum()
    agreed = (logits.argmax(-1) == wanted.argmax(-1)).sum()
    return Tally(places=len(wanted), agreed=float(agreed), overlap=float(overlap))


def _rounds(agreements: list[torch.Tensor]) -> Tally:
    """`agreements[k]` bool [B, ≥ N]: whether draft k + 1 of the round that starts at each place would be right."""
    count = min(agreed.shape[1] for agreed in agreements)
    standing = torch.ones_like(agreements[0][:, :count])
    accepted = 0.0
    for agreed in agreements:
        standing = standing & agreed[:, :count]
        accepted += float(standing.sum())
    return Tally(rounds=standing.numel(), accepted=accepted)
