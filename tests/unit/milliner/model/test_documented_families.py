"""docs/models.md lists exactly the families that slices accept."""

from __future__ import annotations

import re
from pathlib import Path

from milliner.model import families

PAGE = Path(__file__).parents[4] / "docs" / "models.md"


def test_documented_families_are_the_accepted_ones() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row) if name != "model_type"]
    assert sorted(listed) == sorted(families.FAMILIES)
