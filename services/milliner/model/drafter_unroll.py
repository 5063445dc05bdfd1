"""Runs an adapter over whole windows of text as serving would run it: first draft, second draft, and so on.

Pass 1 stands for the root of every round: position t sees the verified deep state of t - 1 and all earlier positions.
Pass k stands for the k-th draft of a round whose root lies at t - k + 1: its deep state is pass k - 1's at t - 1, it
sees history up to the root as pass 1 cached it, and the drafts between as the later passes did. That is one masked
attention plus k - 1 single keys per position. In serving, accepted drafts stay in the cache as they were drafted; so
training makes history a mixture, in which a random part of pass 1's positions see a drafted state in place of the
verified one. Forms without deep states are the same in every pass, and need one.
"""

from __future__ import annotations

import dataclasses

import torch

from milliner.model import adapter as adapters

DRAFTED_HISTORY_SHARE = 0.6  # of answer positions in history: with 2.5 drafts accepted per round, 2.5 / 3.5 are drafts


@dataclasses.dataclass(slots=True)
class _History:
    """Keys and values [B, Hkv, T, Dh] of each pass so far."""

    keys: list[torch.Tensor] = dataclasses.field(default_factory=list)
    values: list[torch.Tensor] = dataclasses.field(default_factory=list)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Adds this pass's keys and values and attends; query [B, H, T, Dh] -> [B, T, H * Dh]."""
        self.keys.append(key)
        self.values.append(value)
        batch, heads, length, size = query.shape
        kv_heads = key.shape[1]
        grouped = query.reshape(batch, kv_heads, heads // kv_heads * length, size) * size**-0.5
        scores = (grouped @ self.keys[0].transpose(2, 3)).float().view(batch, kv_heads, -1, length, length)
        depth = len(self.keys) - 1
        own = torch.arange(length, device=query.device)
        hidden = own[None, :] > own[:, None] - depth
        scores = scores.masked_fill(hidden, torch.finfo(torch.float32).min)
        grouped = grouped.view(batch, kv_heads, -1, length, size)
        later_keys = [_shift(k, depth - j)[:, :, None] for j, k in enumerate(self.keys) if j > 0]
        single = [(grouped * k).sum(-1, keepdim=True).float() for k in later_keys]
        weights = torch.cat([scores, *single], dim=-1).softmax(dim=-1).to(value.dtype)
        flat = weights[..., :length].reshape(batch, kv_heads, -1, length)
        mixed = (flat @ self.values[0]).view(batch, kv_heads, -1, length, size)
        for j, v in enumerate(self.values[1:], start=1):
            mixed = mixed + weights[..., length + j - 1, None] * _shift(v, depth - j)[:, :, None]
        return mixed.reshape(batch, heads, length, size).transpose(1, 2).flatten(2)


def _shift(states: torch.Tensor, places: int) -> torch.Tensor:
    """Moves the T axis (second to last) `places` to the right; what falls in from the left repeats the first entry."""
    if places == 0:
        return states
    return torch.cat([states[..., :1, :].expand(*states.shape[:-2], places, -1), states[..., :-places, :]], dim=-2)


def unroll(
    adapter: adapters.Adapter,
    hidden: torch.Tensor,
    deep: torch.Tensor,
    *,
    first_known: torch.Tensor,
    num_passes: int,
    generator: torch.Generator | None = None,
) -> list[torch.Tensor]:
    """The adapter's `states` [B, T, D] of each pass over windows of hidden and deep states [B, T, D].

    `first_known` [B]: the first position that sees a deep state, i.e. the answer's first; earlier ones are prompt.
    With a `generator` (training), history is a mixture; without, all of it is as verified.
    """
    batch, length, _ = hidden.shape
    positions = torch.arange(length, device=hidden.device).expand(batch, -1)
    if not adapter.sees_deep_states:
        return [adapter.run(hidden, positions, _History().attend)] * num_passes
    known = positions >= first_known[:, None]
    before = _shift(deep, 1)  # position t sees z of t - 1
    if generator is not None:
        with torch.no_grad():
            drafted = adapter.run(adapter.mix_in(hidden, before, known), positions, _History().attend)
        draw = torch.rand(batch, length, generator=generator).to(hidden.device)
        replaced = (draw < DRAFTED_HISTORY_SHARE) & (positions > first_known[:, None])
        before = torch.where(replaced[..., None], _shift(drafted, 1), before)
    history = _History()
    passes = [adapter.run(adapter.mix_in(hidden, before, known), positions, history.attend)]
    while len(passes) < num_passes:
        passes.append(adapter.run(adapter.mix_in(hidden, _shift(passes[-1], 1), known), positions, history.attend))
    return passes
