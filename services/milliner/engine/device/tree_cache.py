"""A KV cache that holds a committed history and, behind it, the nodes of a draft tree in the order they were computed.

Slots [0, committed) are the history: slot = position. A tree node's slot says nothing about its position, so its row
of the batch carries an explicit mask: the history and its own ancestors. Committing moves the accepted nodes' rows to
the end of the history and the kept subtree's rows behind them. Runs on the device's executor thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from milliner.model import kv_cache, ragged


class TreeCache:
    """One session's cache for one stack of layers."""

    def __init__(self, sequence: kv_cache.SequenceKV, torch_device: torch.device) -> None:
        self._sequence = sequence
        self._torch_device = torch_device
        self._tree_positions: list[int] = []  # of the slots behind the history
        self.committed = 0

    @property
    def length(self) -> int:
        """Slots in use, history and tree."""
        return self.committed + len(self._tree_positions)

    def history_batch(self, num_tokens: int) -> ragged.RaggedBatch:
        """The next `num_tokens` positions of the history; the tree must be empty. Raises `KVCacheFull`."""
        assert not self._tree_positions, "history grows before a tree is drafted on it"
        start = self.committed
        self._sequence.truncate(start)
        self._sequence.reserve(num_tokens)
        self.committed = start + num_tokens
        return self._build(ragged.Segment(self._sequence, start, num_tokens))

    def tree_batch(self, positions: Sequence[int], ancestors: Sequence[Sequence[int]]) -> ragged.RaggedBatch:
        """New nodes at `positions`; `ancestors[i]` are the tree slots that node i sees beside the history and itself.

        Node i gets slot `length + i`, which later nodes of the batch may name as an ancestor. Raises `KVCacheFull`.
        """
        start = self.length
        self._sequence.reserve(start + len(positions) - self._sequence.kv_len)
        self._tree_positions.extend(positions)
        if _is_chain(positions, ancestors, start=start, committed=self.committed):
            return self._build(ragged.Segment(self._sequence, start, len(positions)))
        visible = torch.zeros(len(positions), self.length, dtype=torch.bool)
        visible[:, : self.committed] = True
        for row, slots in enumerate(ancestors):
            visible[row, [*slots, start + row]] = True
        return self._build(
            ragged.Segment(
                self._sequence,
                start,
                len(positions),
                positions=torch.tensor(positions, device=self._torch_device),
                visible=visible.to(self._torch_device),
                slot_positions=torch.tensor([*range(self.committed), *self._tree_positions], device=self._torch_device),
            )
        )

    def commit(self, accepted: Sequence[int], kept: Sequence[int]) -> None:
        """Slots of accepted nodes, in order of position, join the history; slots of kept nodes stay as the tree."""
        positions = [self._tree_positions[slot - self.committed] for slot in kept]
        sources = [*accepted, *kept]
        targets = range(self.committed, self.committed + len(sources))
        moves = [(source, target) for source, target in zip(sources, targets, strict=True) if source != target]
        self._sequence.move([source for source, _ in moves], [target for _, target in moves])
        self.committed += len(accepted)
        self._tree_positions = positions
        self._sequence.truncate(self.length)

    def rewind(self, committed: int) -> None:
        """Forgets the history from position `committed` on; the tree must be empty."""
        assert not self._tree_positions
        assert committed <= self.committed
        self.committed = committed
        self._sequence.truncate(committed)

    def close(self) -> None:
        """Returns the cache's pages; safe to call twice."""
        self._sequence.close()

    def _build(self, segment: ragged.Segment) -> ragged.RaggedBatch:
        return ragged.RaggedBatch.build([segment], torch_device=self._torch_device)


def _is_chain(positions: Sequence[int], ancestors: Sequence[Sequence[int]], *, start: int, committed: int) -> bool:
    """Whether plain causal attention is right: every node sees exactly all slots before its own."""
    return all(
        position == start + row and len(slots) == start + row - committed
        for row, (position, slots) in enumerate(zip(positions, ancestors, strict=True))
    )
