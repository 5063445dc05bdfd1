"""Picking tokens: sampling distributions, keyed noise, and the acceptance rule of speculative decoding.

**One rule.** A token is the argmax of scores over the vocabulary: the logits where decoding is greedy, log p + g where
it samples, with g independent standard Gumbel noise for every position and token. That argmax is distributed as p (the
Gumbel-max trick). Target and drafter use the *same* noise at a position, so a draft stands exactly if it is the token
that the target picks there: speculative sampling by coupling without communication (Daliri et al., arXiv 2408.07978).

What follows from it. An answer is a function of the target and of the seed alone: drafting, its length and what it
looked at cannot change it, so every strategy gives the same answer for the same seed, up to rounding where two scores
are equal. Exactness needs nothing of the drafter. And the drafter knows the noise before the target has spoken: its
next choices hold the target's token as often as they do in greedy decoding. The price: a draft is accepted with
probability at least (1 - d) / (1 + d), where the rule of Leviathan et al. (arXiv 2211.17192) accepts 1 - d, d being the
distance in total variation of the two distributions.

Noise is keyed by (seed, position, token): the same on any machine, whatever ran in between. Called on executor threads.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Sequence

import torch

from milliner.core import errors, types

# Likeliest tokens that an expansion reports: 91 % of misses are among the next three (docs/algorithms.md, adapter).
DRAFT_TOP_CANDIDATES = 8
_NOISE_ROWS = 64  # positions whose noise a request keeps: more than a draft tree is deep; arbitrary
_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): increment and multipliers."""


def log_distribution(logits: torch.Tensor, sampling: types.SamplingParams) -> torch.Tensor:
    """[T, V] logits -> [T, V] float32 log-probabilities after temperature, top-k and top-p, in that order
    (transformers'); -inf for what is ruled out, and for nothing else however unlikely.

    Greedy parameters give the plain log-softmax, whose maximum is the greedy choice.
    """
    if sampling.greedy:
        return logits.float().log_softmax(dim=-1)
    scores = logits.float() / sampling.temperature
    if sampling.top_k > 0 and sampling.top_k < scores.shape[-1]:
        threshold = scores.topk(sampling.top_k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    shares = scores.log_softmax(dim=-1)
    if sampling.top_p >= 1.0:
        return shares
    ordered, index = shares.sort(dim=-1, descending=True)
    mass = ordered.exp()
    dropped = mass.cumsum(dim=-1) - mass > sampling.top_p  # what comes before a token is enough
    kept_mass = mass.masked_fill(dropped, 0.0).sum(dim=-1, keepdim=True)  # [T, 1]
    return shares.masked_fill(dropped.scatter(-1, index, dropped), -torch.inf) - kept_mass.log()


def gumbel(*, seed: int, position: int, count: int, torch_device: torch.device) -> torch.Tensor:
    """[count] float64 standard Gumbel variates, one per token, that depend on nothing but their key."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest(), "big", signed=True)
    state = torch.arange(1, count + 1, dtype=torch.int64, device=torch_device) * _signed(_GAMMA) + key  # wraps around
    for shift, multiplier in ((30, _MIX_1), (27, _MIX_2)):
        state = (state ^ _shifted(state, shift)) * _signed(multiplier)
    state = state ^ _shifted(state, 31)
    uniform = (_shifted(state, 12).double() + 0.5) * 2.0**-52  # within (0, 1), both ends excluded
    return -torch.log(-torch.log(uniform))


def _shifted(state: torch.Tensor, bits: int) -> torch.Tensor:
    """The logical right shift of 64-bit words; torch's own keeps the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(word: int) -> int:
    """The int64 of the same bits."""
    return word - (1 << 64) if word >= 1 << 63 else word


class Picker:
    """How one request picks its tokens: by the logits, or by its distribution and its noise.

    Target and drafter share one. It keeps the noise of positions that it was asked for, 8 bytes a token of the
    vocabulary each, until `forget`.
    """

    def __init__(self, params: types.SamplingParams, *, seed: int) -> None:
        self._params = params
        self._seed = seed
        self._noise: collections.OrderedDict[int, torch.Tensor] = collections.OrderedDict()

    def scores(self, logits: torch.Tensor, positions: Sequence[int]) -> torch.Tensor:
        """[T, V] logits -> [T, V] scores of the tokens that may stand at `positions` (T of them); the highest does."""
        if self._params.greedy:
            return logits
        noise = torch.stack([self._row(position, logits) for position in positions])  # [T, V]
        return log_distribution(logits, self._params) + noise

    def forget(self, position: int) -> None:
        """Nobody will ask for positions below `position` any more; who does nevertheless gets the same noise."""
        for known in [known for known in self._noise if known < position]:
            del self._noise[known]

    def _row(self, position: int, like: torch.Tensor) -> torch.Tensor:
        row = self._noise.get(position)
        if row is None:
            row = gumbel(seed=self._seed, position=position, count=like.shape[-1], torch_device=like.device)
            self._noise[position] = row
            if len(self._noise) > _NOISE_ROWS:
                self._noise.popitem(last=False)
        return row


@dataclasses.dataclass(frozen=True, slots=True)
class Acceptance:
    """The first `num_accepted` drafts stand; `token_id` follows them."""

    num_accepted: int
    token_id: int


def accept(target_scores: torch.Tensor, drafted: Sequence[int]) -> Acceptance:
    """[K + 1, V] the target's scores after root and K drafts: accepts while the draft is what the target picks.

    Raises `ProtocolError` where the picked score is not finite: NaN wins every argmax, and would pass for a token.
    """
    best = target_scores.max(dim=-1)
    choices: list[int] = best.indices.tolist()
    num_accepted = 0
    for draft, choice in zip(drafted, choices, strict=False):
        if draft != choice:
            break
        num_accepted += 1
    if not all(map(math.isfinite, best.values[: num_accepted + 1].tolist())):
        raise errors.ProtocolError(
            "the model's scores are not finite: its weights are damaged, or its numbers overflow in this dtype; "
            "try Float32 or BFloat16, or download the checkpoint again",
            field="model.dtype",
        )
    return Acceptance(num_accepted, choices[num_accepted])


def logprobs(logits: torch.Tensor, token_id: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Of [V] target logits: the token's log-probability and the `count` likeliest tokens with theirs."""
    row = logits.float().log_softmax(dim=-1)
    if count == 0:
        return float(row[token_id]), ()
    values, indices = row.topk(min(count, row.shape[-1]))
    return float(row[token_id]), tuple(zip(indices.tolist(), values.tolist(), strict=True))
