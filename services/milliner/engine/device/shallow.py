"""The shallow layers' side of a request: the prompt, and nodes of the draft tree, over one KV cache.

Everything here runs on the device's executor thread, in inference mode.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from milliner.core import errors
from milliner.engine.device import draft_tree, history, room, submodels, tree_cache


class Shallow:
    """One request's cache of the shallow layers; committed hidden states go to `history`."""

    def __init__(self, modules: submodels.Submodels, *, cache: tree_cache.TreeCache, history: history.History) -> None:
        self._layers = modules.shallow
        self._cache = cache
        self._history = history

    def prompt_now(self, start: int, token_ids: Sequence[int]) -> int:
        """Sees to it that prompt positions from `start` are in the history; returns how many had to be computed.

        What is there is decided here, not on the event loop: a call whose wait was cancelled may have run since.
        """
        assert self._history.length >= start, "a prompt is computed from its beginning"
        unseen = token_ids[self._history.length - start :]
        if unseen:
            batch = self._cache.history_batch(len(unseen))
            self._history.append(self._layers.forward(self._layers.embed(self._ids(unseen)), batch))
        return len(unseen)

    def nodes_now(self, nodes: Sequence[draft_tree.Node]) -> None:
        """Hidden states of those of `nodes` that have none; parents come before children."""
        missing = [node for node in nodes if node.hidden is None]
        if not missing:
            return
        slots = {node.id: self._cache.length + index for index, node in enumerate(missing)}
        batch = self._cache.tree_batch(  # may refuse: slots are given once it has not
            [node.position for node in missing],
            [
                [slots[above.id] if above.id in slots else _slot(above) for above in node.lineage()[:-1]]
                for node in missing
            ],
        )
        for node in missing:
            node.shallow_slot = slots[node.id]
        ids = self._ids([node.token_id for node in missing])
        for node, hidden in zip(missing, self._layers.forward(self._layers.embed(ids), batch), strict=True):
            node.hidden = hidden

    def guesses_now(self, nodes: Sequence[draft_tree.Node]) -> None:
        """As `nodes_now` for nodes that nobody has to send; raises `KVCacheFull` where the tree must not grow."""
        tree_tokens = self._cache.length - self._cache.committed + sum(node.hidden is None for node in nodes)
        if tree_tokens > room.TREE_TOKENS - room.PATH_TOKENS:
            raise errors.KVCacheFull(f"the draft tree would take {tree_tokens} tokens: draft less", field="kv_cache")
        self.nodes_now(nodes)

    def commit_now(self, accepted: Sequence[draft_tree.Node], kept: Sequence[draft_tree.Node]) -> None:
        """Accepted nodes join the history; kept ones that have been computed stay as the tree."""
        self._history.append(torch.stack([hidden_of(node) for node in accepted]))
        computed = sorted((node for node in kept if node.shallow_slot is not None), key=_slot)
        self._cache.commit([_slot(node) for node in accepted], [_slot(node) for node in computed])
        for index, node in enumerate(computed):
            node.shallow_slot = self._cache.committed + index

    def close_now(self) -> None:
        """Frees the cache."""
        self._cache.close()

    def _ids(self, token_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor(token_ids, device=self._layers.torch_device)


def hidden_of(node: draft_tree.Node) -> torch.Tensor:
    """[D] of a node that the shallow layers have seen."""
    assert node.hidden is not None
    return node.hidden


def _slot(node: draft_tree.Node) -> int:
    assert node.shallow_slot is not None
    return node.shallow_slot
