"""Draft trees: making nodes, lineage, re-rooting."""

from __future__ import annotations

import pytest

from milliner.core import compute
from milliner.engine.device import draft_tree


def test_children_are_made_once() -> None:
    tree = draft_tree.DraftTree(5, position=100)
    first = tree.child(tree.root, 6)
    assert tree.child(tree.root, 6) is first
    assert list(tree.root.children) == [6]
    assert (first.position, first.parent, tree.node(first.id)) == (101, tree.root, first)


def test_lineage_runs_from_the_root() -> None:
    tree = draft_tree.DraftTree(5, position=0)
    leaf = tree.child(tree.child(tree.root, 6), 7)
    assert [node.token_id for node in leaf.lineage()] == [5, 6, 7]


def test_rerooting_keeps_the_subtree_and_forgets_the_rest() -> None:
    tree = draft_tree.DraftTree(5, position=0)
    kept = tree.child(tree.root, 6)
    below = tree.child(kept, 7)
    other = tree.child(tree.root, 8)
    kept.expansion = compute.Expansion(kept.id, 7, 0.9, ((7, 0.9),))
    assert tree.reroot(tree.root, 6)
    assert tree.root is kept
    assert kept.lineage() == [kept]
    assert kept.subtree() == [kept, below]
    with pytest.raises(KeyError):
        tree.node(other.id)


def test_an_unexpected_token_becomes_a_bare_root() -> None:
    tree = draft_tree.DraftTree(5, position=9)
    tree.child(tree.root, 6)
    assert not tree.reroot(tree.root, 42)
    assert (tree.root.token_id, tree.root.position, tree.root.subtree()) == (42, 10, [tree.root])
