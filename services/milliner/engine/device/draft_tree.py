"""The draft tree of one request: known and guessed tokens beyond the committed history. Bookkeeping only.

The root is the last known token. A node's children are tokens that may follow it; nodes are made when somebody thinks
of a token and gain hidden states, cache slots and an expansion as submodels see them. Re-rooting keeps the new root's
subtree and drops everything else.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from milliner.core import compute

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(slots=True)
class Node:
    """A token at `position`. Slots are places in the KV caches of the shallow layers and of the drafter."""

    id: int
    token_id: int
    position: int
    parent: Node | None
    children: dict[int, Node] = dataclasses.field(default_factory=dict)
    hidden: torch.Tensor | None = None  # [D], after the shallow layers
    shallow_slot: int | None = None
    drafter_slot: int | None = None
    drafter_state: torch.Tensor | None = None  # [D], the drafter's output
    expansion: compute.Expansion | None = None

    def lineage(self) -> list[Node]:
        """Root … this node."""
        nodes = [self]
        while (parent := nodes[-1].parent) is not None:
            nodes.append(parent)
        return nodes[::-1]

    def subtree(self) -> list[Node]:
        """This node and all below it, parents before children."""
        nodes = [self]
        for node in nodes:
            nodes.extend(node.children.values())
        return nodes


class DraftTree:
    """Nodes by id, and the root."""

    def __init__(self, token_id: int, position: int) -> None:
        self._next_id = 0
        self._nodes: dict[int, Node] = {}
        self.root = self._add(token_id, position, None)

    def node(self, node_id: int) -> Node:
        return self._nodes[node_id]

    def child(self, node: Node, token_id: int) -> Node:
        """The child for `token_id`, made if it is not there."""
        found = node.children.get(token_id)
        if found is None:
            found = node.children[token_id] = self._add(token_id, node.position + 1, node)
        return found

    def reroot(self, node: Node, token_id: int) -> bool:
        """The child `token_id` of `node` becomes the root; True if it had been drafted ahead (it has a subtree)."""
        root = self.child(node, token_id)
        root.parent = None
        self.root = root
        self._nodes = {kept.id: kept for kept in root.subtree()}
        return root.expansion is not None

    def _add(self, token_id: int, position: int, parent: Node | None) -> Node:
        node = Node(id=self._next_id, token_id=token_id, position=position, parent=parent)
        self._next_id += 1
        self._nodes[node.id] = node
        return node
