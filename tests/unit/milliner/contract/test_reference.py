"""docs/topology.md is what the schema says."""

from __future__ import annotations

import pathlib

from milliner.contract import reference

ROOT = pathlib.Path(__file__).parents[4]


def test_the_written_reference_is_current() -> None:
    written = (ROOT / "docs" / "topology.md").read_text(encoding="utf-8")
    assert written == reference.markdown(), "the schema changed: run make docs"


def test_every_group_is_in_it() -> None:
    text = reference.markdown()
    for group in ("spec.strategy.hat.drafting", "spec.cloud.engine", "spec.devicePools[].emulation.link"):
        assert f"## `{group}`" in text
