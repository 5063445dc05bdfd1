"""Picking tokens: sampling distributions, keyed random draws, and the acceptance rule of speculative decoding.

The rule (Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318): a draft d ~ q is accepted with
probability min(1, p(d) / q(d)); at the first rejection the token comes from the normalised positive part of p - q,
after the last draft from p. Tokens are then distributed as if drawn from p alone.

Draws are keyed by (seed, position, stream): the same request with the same seed and the same drafts gives the same
answer on any machine with the same arithmetic, whatever ran in between. Called on executor threads.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Sequence

import torch

from milliner.core import types

# Likeliest tokens that an expansion reports: 91 % of misses are among the next three (docs/algorithms.md, adapter).
DRAFT_TOP_CANDIDATES = 8


class Stream(enum.IntEnum):
    """What a draw is for: draws of different streams at one position are independent."""

    DRAFT = 0
    ACCEPT = 1
    TARGET = 2


def distribution(logits: torch.Tensor, sampling: types.SamplingParams) -> torch.Tensor:
    """[T, V] logits -> [T, V] float32 probabilities after temperature, top-k and top-p, in that order (transformers').

    Greedy parameters give the plain softmax, whose maximum is the greedy choice.
    """
    if sampling.greedy:
        return logits.float().softmax(dim=-1)
    scores = logits.float() / sampling.temperature
    if sampling.top_k > 0 and sampling.top_k < scores.shape[-1]:
        threshold = scores.topk(sampling.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = scores.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        dropped = (before > sampling.top_p).scatter(-1, index, before > sampling.top_p)
        scores = scores.masked_fill(dropped, -torch.inf)
    return scores.softmax(dim=-1)


def uniform(*, seed: int, position: int, stream: Stream) -> float:
    """A number in [0, 1) that depends on nothing but its key."""
    digest = hashlib.blake2b(f"{seed}:{position}:{int(stream)}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def draw(probabilities: torch.Tensor, *, seed: int, position: int, stream: Stream) -> int:
    """A token from [V] probabilities by inverting their cumulative sum."""
    cumulative = probabilities.double().cumsum(dim=-1)
    target = uniform(seed=seed, position=position, stream=stream) * float(cumulative[-1])
    wanted = torch.tensor(target, dtype=torch.float64, device=cumulative.device)
    index = int(torch.searchsorted(cumulative, wanted, right=True))
    # Rounding may point past the last token of positive probability.
    return min(index, int(probabilities.nonzero()[-1]))


@dataclasses.dataclass(frozen=True, slots=True)
class Acceptance:
    """The first `num_accepted` drafts stand; `token_id` follows them."""

    num_accepted: int
    token_id: int


def accept_greedy(target_logits: torch.Tensor, drafted: Sequence[int]) -> Acceptance:
    """[K + 1, V] target logits of root and K drafts: accepts while the draft is the target's first choice."""
    choices: list[int] = target_logits.argmax(dim=-1).tolist()
    num_accepted = 0
    for draft, choice in zip(drafted, choices, strict=False):
        if draft != choice:
            break
        num_accepted += 1
    return Acceptance(num_accepted, choices[num_accepted])


def accept_sampled(
    p: torch.Tensor, q: Sequence[torch.Tensor], drafted: Sequence[int], *, seed: int, position: int
) -> Acceptance:
    """Speculative sampling. `p` [K + 1, V]: the target's distributions after the root and each draft; `q` K times [V]:
    what each draft was drawn from. `position` is the root's."""
    for index, (token_id, q_row) in enumerate(zip(drafted, q, strict=True)):
        p_row = p[index]
        ratio = float(p_row[token_id]) / max(float(q_row[token_id]), 1e-38)
        place = position + 1 + index
        if uniform(seed=seed, position=place, stream=Stream.ACCEPT) < ratio:
            continue
        residual = (p_row - q_row).clamp_min(0.0)
        source = residual if float(residual.sum()) > 0.0 else p_row
        return Acceptance(index, draw(source, seed=seed, position=place, stream=Stream.TARGET))
    place = position + 1 + len(drafted)
    return Acceptance(len(drafted), draw(p[len(drafted)], seed=seed, position=place, stream=Stream.TARGET))


def logprobs(logits: torch.Tensor, token_id: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Of [V] target logits: the token's log-probability and the `count` likeliest tokens with theirs."""
    row = logits.float().log_softmax(dim=-1)
    if count == 0:
        return float(row[token_id]), ()
    values, indices = row.topk(min(count, row.shape[-1]))
    return float(row[token_id]), tuple(zip(indices.tolist(), values.tolist(), strict=True))
