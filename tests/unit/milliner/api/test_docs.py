"""The documents name what the code has: fields, error codes, phases, metrics."""

from __future__ import annotations

import pathlib
import re

from milliner.api import errors, schema
from milliner.core import clock
from milliner.telemetry import cloud_metrics, metrics
from milliner.telemetry.phases import Phase

DOCS = pathlib.Path(__file__).parents[4] / "docs"


def quoted(name: str) -> set[str]:
    """Everything in backticks, without labels in braces."""
    return {word.partition("{")[0] for word in re.findall(r"`([^`\n]+)`", (DOCS / name).read_text())}


def test_every_request_field_is_documented() -> None:
    fields = set(schema.ChatRequest.model_fields) | set(schema.CompletionRequest.model_fields)
    fields |= set(schema.StreamOptions.model_fields) | schema.IGNORED | set(schema.NEUTRAL)
    assert fields - quoted("http-api.md") == set()


def test_every_error_code_is_documented() -> None:
    assert {face.code for face in errors.FACES.values()} - quoted("http-api.md") == set()


def test_phases_and_metrics_are_documented_and_no_others() -> None:
    documented = quoted("telemetry.md")
    assert {phase.value for phase in Phase} <= documented
    registries = (
        metrics.DeviceMetrics(model="m", strategy="s").registry,
        cloud_metrics.CloudMetrics(clock=clock.LoopClock()).registry,
    )
    families = [family for registry in registries for family in registry.collect()]
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert {name for name in documented if name.startswith("milliner_")} == names
