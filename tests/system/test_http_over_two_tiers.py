"""The device's HTTP over a real split: device submodels, gRPC, cloud engine. One trace; one cancellation for all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest
from starlette import applications
from tests.system import split_topology

from milliner.api import app, text_service, tokenizer
from milliner.core import clock
from milliner.engine.device import device_model
from milliner.model import adapter
from milliner.strategies import options as strategy_options
from milliner.telemetry import attributes as names
from milliner.telemetry import summary_json, tracing

PROMPT = "def main(argv):"


@contextlib.asynccontextmanager
async def served(
    model: pathlib.Path, folder: pathlib.Path, traced: tracing.Tracing
) -> AsyncIterator[tuple[applications.Starlette, httpx.AsyncClient, split_topology.SplitTopology]]:
    split_topology.write_adapter(folder, model, split_layer=1, form=adapter.AdapterForm.ATTENTION)
    files = device_model.DeviceFiles(model, 1, adapter=folder)
    drafting = strategy_options.DraftingOptions(
        control=strategy_options.DraftControl.FIXED, max_tokens=3, min_confidence=0.0
    )
    async with split_topology.running(files) as topology:
        service = text_service.TextService(
            generator=topology.strategy(strategy_options.HatOptions(drafting=drafting)),
            codec=tokenizer.HuggingFaceTokenizer.load(model),
            model=text_service.ServedModel(name="tiny", max_positions=256, strategy="Hat"),
            clock=clock.LoopClock(),
            tracer=traced.tracer,
        )
        application = app.create_app(service, clock=clock.LoopClock())
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://device", timeout=60) as client:
            yield application, client, topology
        service.close()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> tracing.Tracing:
    """Device and cloud write to one place, so that a test sees whether their spans meet."""
    shared = tracing.set_up(tier="device")
    monkeypatch.setattr(tracing, "set_up", lambda **_: shared)
    return shared


async def test_an_answer_is_the_unsplit_models_and_one_trace_over_both_tiers(
    tiny_model: pathlib.Path, tmp_path: pathlib.Path, traced: tracing.Tracing
) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    async with served(tiny_model, tmp_path, traced) as (_, client, _):
        response = await client.post(
            "/v1/completions", json={**body, "return_token_ids": True, "milliner": {"explain": True}}
        )
    choice = response.json()["choices"][0]
    assert choice["token_ids"] == split_topology.reference(tiny_model, choice["prompt_token_ids"], 24)
    one = summary_json.parse(response.json()["milliner"]["choices"][0])
    spans = traced.recent.spans(trace_id=one.trace_id)
    by_id = {span.context.span_id: span for span in spans}
    roots = [span for span in spans if span.parent is None]
    assert [root.name for root in roots] == ["text_completion tiny"]
    cloud = [span for span in spans if span.name.startswith("cloud ")]
    assert len(cloud) >= len(one.rounds)  # prefill may take several frames
    for span in cloud:
        assert span.parent is not None
        parent = by_id[span.parent.span_id]
        assert parent.name.startswith("round ")
        assert (span.attributes or {})[names.ROUND_INDEX] == (parent.attributes or {})[names.ROUND_INDEX]
    assert PROMPT not in "".join(span.to_json() for span in spans)


async def test_closing_a_stream_frees_the_session_in_the_cloud(
    tiny_model: pathlib.Path, tmp_path: pathlib.Path, traced: tracing.Tracing
) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 200, "stream": True, "ignore_eos": True}
    first = asyncio.Event()
    async with served(tiny_model, tmp_path, traced) as (application, _, topology):
        sent: list[bool] = []

        async def vanish() -> dict[str, object]:
            if not sent:
                sent.append(True)
                return {"type": "http.request", "body": json.dumps(body).encode()}
            await first.wait()
            return {"type": "http.disconnect"}

        async def note(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.body":
                first.set()

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/completions",
            "headers": [(b"content-type", b"application/json")],
            "query_string": b"",
        }
        async with asyncio.timeout(60):
            await application(scope, vanish, note)
            while topology.replicas[0].engine.load().running_sessions:
                await asyncio.sleep(0.01)
    (root,) = [span for span in traced.recent.spans() if span.name == "text_completion tiny"]
    assert (root.attributes or {})[names.ERROR_TYPE] == "CancelledError"
    assert int((root.attributes or {})[names.USAGE_OUTPUT_TOKENS]) < 200  # type: ignore[arg-type]
