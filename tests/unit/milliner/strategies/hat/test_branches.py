"""Outcomes of a verification worth drafting ahead."""

from __future__ import annotations

import pytest

from milliner.core import compute
from milliner.strategies.hat import branches

ROOT = compute.Expansion(node=0, drafted=10, confidence=0.8, candidates=((10, 0.8), (11, 0.1), (12, 0.05)))
LEAF = compute.Expansion(node=1, drafted=20, confidence=0.6, candidates=((20, 0.6), (21, 0.3), (22, 0.001)))


def outcomes(*expansions: compute.Expansion | None, per_point: int = 4) -> dict[tuple[int, int], float]:
    found = branches.likely_outcomes(
        tuple(range(len(expansions))), expansions, acceptance=lambda confidence: confidence, per_point=per_point
    )
    assert [outcome.probability for outcome in found] == sorted((o.probability for o in found), reverse=True)
    return {(outcome.parent, outcome.token_id): outcome.probability for outcome in found}


def test_misses_share_what_the_draft_leaves() -> None:
    found = outcomes(ROOT, None)
    assert found == {(0, 11): pytest.approx(0.2 * 0.1 / 0.2), (0, 12): pytest.approx(0.2 * 0.05 / 0.2)}


def test_behind_the_leaf_every_candidate_may_follow() -> None:
    found = outcomes(ROOT, LEAF)
    assert found[1, 20] == pytest.approx(0.8 * 0.6)
    assert found[1, 21] == pytest.approx(0.8 * 0.3)
    assert (1, 22) not in found  # too unlikely to be worth a branch


def test_the_drafted_token_is_no_outcome_where_it_was_sent() -> None:
    assert (0, 10) not in outcomes(ROOT, LEAF)


def test_at_most_so_many_per_point() -> None:
    assert set(outcomes(ROOT, LEAF, per_point=1)) == {(0, 11), (1, 20)}


def test_a_path_without_drafts_ends_at_its_root() -> None:
    assert outcomes(ROOT)[0, 10] == pytest.approx(0.8)
    assert outcomes(None) == {}
