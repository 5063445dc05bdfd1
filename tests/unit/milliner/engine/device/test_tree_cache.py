"""KV caches under draft trees: whatever was drafted, re-rooted and kept, states equal those of a lone causal pass."""

from __future__ import annotations

import pathlib

import pytest
import torch
from tests.numerics import tiny_models

from milliner.core import errors
from milliner.engine.device import tree_cache
from milliner.model import kv_cache, ragged


class Layers:
    """A tiny model's layers over one tree cache; `states` computes nodes, `alone` a whole path from nothing."""

    def __init__(self, folder: pathlib.Path, case: str, *, num_pages: int = 32) -> None:
        tiny_models.save(case, folder)
        (self.slice,) = tiny_models.load(folder, 0, 3)
        self.pages = num_pages
        self.cache = tree_cache.TreeCache(self._sequence(), tiny_models.CPU)

    def _sequence(self) -> kv_cache.SequenceKV:
        return tiny_models.caches([self.slice], num_pages=self.pages)[0].open()

    def states(self, token_ids: list[int], batch: ragged.RaggedBatch) -> torch.Tensor:
        return self.slice.forward(self.slice.embed(torch.tensor(token_ids)), batch)

    def history(self, token_ids: list[int]) -> torch.Tensor:
        return self.states(token_ids, self.cache.history_batch(len(token_ids)))

    def alone(self, token_ids: list[int]) -> torch.Tensor:
        fresh = tree_cache.TreeCache(self._sequence(), tiny_models.CPU)
        return self.states(token_ids, fresh.history_batch(len(token_ids)))[-1]


@pytest.fixture(params=["llama", "mistral, window", "gemma3"])
def layers(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Layers:
    return Layers(tmp_path, request.param)


PROMPT = tiny_models.prompt(21).tolist()


def test_branches_do_not_see_one_another(layers: Layers) -> None:
    layers.history(PROMPT)
    first = layers.states([7], layers.cache.tree_batch([21], [[]]))  # slot 21, the root
    two = layers.states([8, 9], layers.cache.tree_batch([22, 22], [[21], [21]]))  # slots 22 and 23
    deeper = layers.states([5, 6], layers.cache.tree_batch([23, 23], [[21, 23], [21, 22]]))
    for state, path in (
        (first[0], [7]),
        (two[0], [7, 8]),
        (two[1], [7, 9]),
        (deeper[0], [7, 9, 5]),
        (deeper[1], [7, 8, 6]),
    ):
        torch.testing.assert_close(state, layers.alone(PROMPT + path), atol=1e-4, rtol=1e-4)


def test_a_chain_in_one_batch_sees_its_own_ancestors(layers: Layers) -> None:
    layers.history(PROMPT)
    states = layers.states([7, 8, 9], layers.cache.tree_batch([21, 22, 23], [[], [21], [21, 22]]))
    torch.testing.assert_close(states[2], layers.alone([*PROMPT, 7, 8, 9]), atol=1e-4, rtol=1e-4)


def test_committing_moves_the_accepted_path_and_keeps_the_new_roots_subtree(layers: Layers) -> None:
    layers.history(PROMPT)
    layers.states([7], layers.cache.tree_batch([21], [[]]))  # slot 21
    layers.states([8, 9], layers.cache.tree_batch([22, 22], [[21], [21]]))  # 22, 23
    layers.states([5, 6], layers.cache.tree_batch([23, 23], [[21, 22], [21, 23]]))  # 24, 25
    layers.states([4], layers.cache.tree_batch([24], [[21, 23, 25]]))  # 26: path 7 9 6 4
    layers.cache.commit(accepted=[21, 23], kept=[25, 26])  # 7 and 9 stand, 6 is the new root, 4 below it
    assert (layers.cache.committed, layers.cache.length) == (23, 25)
    below = layers.states([3, 2], layers.cache.tree_batch([25, 24], [[23, 24], [23]]))
    torch.testing.assert_close(below[0], layers.alone([*PROMPT, 7, 9, 6, 4, 3]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(below[1], layers.alone([*PROMPT, 7, 9, 6, 2]), atol=1e-4, rtol=1e-4)


def test_a_full_cache_refuses_by_name(tmp_path: pathlib.Path) -> None:
    layers = Layers(tmp_path, "llama", num_pages=2)
    with pytest.raises(errors.KVCacheFull):
        layers.history(PROMPT)
