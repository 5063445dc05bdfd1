"""The drafters' side of a request: the adapter over tree nodes and history, Medusa heads over the last deep state.

Everything here runs on the device's executor thread, in inference mode.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from milliner.core import compute
from milliner.engine.device import draft_tree, history, submodels, tree_cache
from milliner.model import adapter, sampling


class Drafting:
    """One request's drafter state. `cache` is None where the device has no adapter."""

    def __init__(
        self,
        modules: submodels.Submodels,
        *,
        cache: tree_cache.TreeCache | None,
        history: history.History,
        picker: sampling.Picker,
    ) -> None:
        self._modules = modules
        self._cache = cache
        self._history = history
        self._picker = picker

    def unseen(self, committed: int) -> int:
        """Committed positions that the adapter has not seen."""
        return committed - self._cache.committed if self._cache is not None else 0

    def catch_up_now(self) -> None:
        """Lets the adapter see the committed positions that it has not seen."""
        if self._cache is None or self.unseen(self._history.length) == 0:
            return
        start, end = self._cache.committed, self._history.length
        deep, known = self._history.deep_before(start, end) if self._drafter.sees_deep_states else (None, None)
        batch = self._cache.history_batch(end - start)
        self._drafter(self._history.hidden(start, end), batch, deep=deep, deep_known=known)
        self._forget_deep()

    def expand_now(self, nodes: Sequence[draft_tree.Node]) -> tuple[compute.Expansion, ...]:
        """One draft step over nodes whose hidden states are there and whose parents have been expanded."""
        assert self._cache is not None
        self.catch_up_now()
        fresh = [node for node in nodes if node.expansion is None]
        if fresh:
            self._expand_fresh(fresh, self._cache)
        return tuple(node.expansion for node in nodes if node.expansion is not None)

    def _expand_fresh(self, nodes: list[draft_tree.Node], cache: tree_cache.TreeCache) -> None:
        first_slot = cache.length
        batch = cache.tree_batch(  # may refuse: slots are given once it has not
            [node.position for node in nodes],
            [[_drafter_slot(above) for above in node.lineage()[:-1]] for node in nodes],
        )
        for index, node in enumerate(nodes):
            node.drafter_slot = first_slot + index
        hidden = torch.stack([node.hidden for node in nodes if node.hidden is not None])  # [B, D]
        deep = self._deep_before(nodes) if self._drafter.sees_deep_states else None
        drafted = self._drafter(hidden, batch, deep=deep)
        logits = self._modules.shallow.project(drafted.normed)  # [B, V]
        for node, state in zip(nodes, drafted.states, strict=True):
            node.drafter_state = state
        self._note(nodes, logits, num_candidates=sampling.DRAFT_TOP_CANDIDATES)

    def _note(self, nodes: Sequence[draft_tree.Node], logits: torch.Tensor, *, num_candidates: int) -> None:
        """Writes down what follows each node, from the drafter's logits [B, V] there."""
        shares = self._picker.scores(logits, [node.position + 1 for node in nodes]).softmax(dim=-1)  # [B, V]
        top = shares.topk(min(num_candidates, shares.shape[-1]), dim=-1)
        for node, tokens, values in zip(nodes, top.indices.tolist(), top.values.tolist(), strict=True):
            candidates = tuple(zip(tokens, values, strict=True))
            drafted, confidence = candidates[0]
            node.expansion = compute.Expansion(node.id, drafted, confidence, candidates)

    def _deep_before(self, nodes: Sequence[draft_tree.Node]) -> torch.Tensor:
        """[B, D]: the deep state before the root, and for drafts the drafter's own state of their parent."""
        rows = [self._history.last_deep() if node.parent is None else node.parent.drafter_state for node in nodes]
        return torch.stack([row for row in rows if row is not None])

    def propose_now(self, tree: draft_tree.DraftTree) -> list[draft_tree.Node]:
        """The chain of the Medusa heads' choices below the root."""
        shallow = self._modules.shallow
        assert self._modules.medusa is not None
        assert shallow.norm is not None
        states = self._modules.medusa(shallow.norm(self._history.last_deep()))  # [K, D]
        logits = shallow.project(states)  # [K, V]
        path = [tree.root]
        for row in logits:
            self._note(path[-1:], row[None], num_candidates=1)
            expansion = path[-1].expansion
            assert expansion is not None
            path.append(tree.child(path[-1], expansion.drafted))
        return path

    def commit_now(self, accepted: Sequence[draft_tree.Node], kept: Sequence[draft_tree.Node]) -> None:
        """Keeps what the adapter has seen of accepted and kept nodes."""
        if self._cache is None:
            self._forget_deep()
            return
        seen: list[int] = []
        for node in accepted:
            if node.drafter_slot is None:
                break
            seen.append(node.drafter_slot)
        expanded = sorted((node for node in kept if node.drafter_slot is not None), key=_drafter_slot)
        assert not expanded or len(seen) == len(accepted), "a node is expanded after its ancestors"
        self._cache.commit(seen, [_drafter_slot(node) for node in expanded])
        for index, node in enumerate(expanded):
            node.drafter_slot = self._cache.committed + index
        self._forget_deep()

    def _forget_deep(self) -> None:
        """Drops deep states that are no drafter's input any more: those before the last position that it has seen."""
        unseen = self._cache is not None and self._drafter.sees_deep_states
        self._history.forget_deep(self._history.length - 1 - (self.unseen(self._history.length) if unseen else 0))

    def close_now(self) -> None:
        """Frees the adapter's cache."""
        if self._cache is not None:
            self._cache.close()

    @property
    def _drafter(self) -> adapter.Adapter:
        assert self._modules.drafter is not None
        return self._modules.drafter


def _drafter_slot(node: draft_tree.Node) -> int:
    assert node.drafter_slot is not None
    return node.drafter_slot
