"""A role's tracer: what has ended and been sent is gone."""

from __future__ import annotations

import contextlib
import gc
import weakref

from milliner.contract import kinds, role_config
from milliner.roles import exporting
from milliner.telemetry import tracing


async def test_a_role_keeps_no_spans_that_nobody_could_read() -> None:
    """20,000 of them took 60 MB."""
    config = role_config.CloudRoleConfig(
        topology="chat",
        name="chat-cloud",
        model=role_config.ModelFiles(path="m", served_name="a", dtype=kinds.Dtype.FLOAT32),
        slice=role_config.SliceBounds(start=1, end=4),
    )
    async with contextlib.AsyncExitStack() as stack:
        span = exporting.tracer(config, tier="cloud", stack=stack).start_span("round")
        assert span.is_recording()
        span.end()
        kept = weakref.ref(span)
        del span
        gc.collect()
        assert kept() is None


def test_what_is_kept_elsewhere_is_bounded() -> None:
    traced = tracing.set_up(tier="device", recent_spans=2)
    for name in "abc":
        traced.tracer.start_span(name).end()
    assert [span.name for span in traced.recent.spans()] == ["b", "c"]
