"""How strongly the last positions of a prompt attend to the earlier ones, collected while the prompt is computed.

Fused attention hides its weights, so `attention` works them out a second time for a few queries on a few layers, from
the same queries, keys and masks. Positions in the middle of a prompt that the last ones read are those that what
follows will need (SnapKV, arXiv 2404.14469). Weights count squared: a head that looks at one place says something, one
that looks everywhere at once, or nowhere in particular, does not. Made and read by `engine.refiner`; the executor's
thread only.
"""

from __future__ import annotations

import torch

from milliner.model import kv_cache

MAX_LAYERS = 4


class PromptWatch:
    """Collects for queries [first, end) of one prompt of `end` positions, on `layers` (the model's own numbers)."""

    def __init__(self, *, num_tokens: int, num_queries: int, layers: frozenset[int]) -> None:
        self.first = max(0, num_tokens - num_queries)
        self.end = num_tokens
        self.layers = layers
        # By layer and first query, so that queries computed again (a batch that failed) count once.
        self._seen: dict[tuple[int, int], tuple[int, torch.Tensor]] = {}

    def observe(self, layer: int, weights: torch.Tensor, *, first_query: int, first_key: int) -> None:
        """Takes weights [H, T, S] of queries from `first_query` on over keys from `first_key` on."""
        self._seen[layer, first_query] = (first_key, weights.square().mean(dim=0).sum(dim=0))

    def scores(self) -> torch.Tensor:
        """[end] float32 on the CPU: each position's squared weights, sums over layers and queries, means of heads."""
        total = torch.zeros(self.end)
        for first_key, paid in self._seen.values():
            total[first_key : first_key + len(paid)] += paid.float().cpu()
        return total


def choose_layers(spec: kv_cache.KVSpec) -> frozenset[int]:
    """Up to `MAX_LAYERS` of the upper five eighths, evenly spread; layers that see everything where there are any.

    The first layers look at neighbours and at what tokens are. Which of the later ones say best what an answer needs
    is hardly to be told apart on the demo (docs/benchmarks.md, bench refine).
    """
    seeing_all = [index for index, layer in enumerate(spec.layers) if layer.sliding_window is None]
    candidates = seeing_all or list(range(len(spec.layers)))
    upper = candidates[len(candidates) * 3 // 8 :]
    count = min(MAX_LAYERS, len(upper))
    chosen = (upper[(2 * number + 1) * len(upper) // (2 * count)] for number in range(count))
    return frozenset(spec.first_layer + index for index in chosen)
