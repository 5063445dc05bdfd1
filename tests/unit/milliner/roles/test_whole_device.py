"""What the wiring of a device of whole models decides by itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from milliner.roles import whole_device


@dataclasses.dataclass(frozen=True)
class Transport:
    max_positions: int


def test_a_small_cloud_bounds_answers_only_of_a_device_without_a_model() -> None:
    nobody: Any = None
    behind = whole_device._Cloud(nobody, Transport(64))  # type: ignore[arg-type]
    own = whole_device._Own(nobody, nobody)
    assert whole_device._cloud_positions(own=None, behind=behind) == 64
    assert whole_device._cloud_positions(own=own, behind=behind) == 0
    assert whole_device._cloud_positions(own=own, behind=None) == 0
