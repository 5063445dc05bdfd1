"""What is served beside answers over ASGI: request ids, models, readiness, metrics, traces, the page."""

from __future__ import annotations

from .conftest import Served


async def test_request_ids_are_echoed_when_harmless(served: Served) -> None:
    response = await served.client.get("/v1/models", headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    odd = await served.client.get("/v1/models", headers={"x-request-id": "a b<script>"})
    assert odd.headers["x-request-id"] not in ("", "a b<script>")


async def test_models_health_readiness(served: Served) -> None:
    (card,) = (await served.client.get("/v1/models")).json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("toy", "model", 400)
    assert (await served.client.get("/v1/models/toy")).json() == card
    assert (await served.client.get("/readyz")).status_code == 200
    served.app.state.why_not_ready = "the cloud cannot be reached"
    unready = await served.client.get("/readyz")
    assert (unready.status_code, unready.json()["reason"]) == (503, "the cloud cannot be reached")
    refused = await served.chat()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "the cloud cannot be reached" in refused.json()["error"]["message"]
    assert (await served.client.get("/healthz")).status_code == 200


async def test_metrics_count_what_was_served(served: Served) -> None:
    await served.complete()
    text = (await served.client.get("/metrics")).text
    assert 'milliner_generation_tokens_total{model_name="toy",strategy="Hat"} 12.0' in text
    assert 'milliner_kv_cache_usage_perc{model_name="toy",strategy="Hat"} 0.5' in text
    asked = await served.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert served.summaries[0].trace_id in asked.text


async def test_a_request_is_one_trace_and_joins_the_callers(served: Served) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    body = {"model": "toy", "prompt": "a secret", "max_tokens": 4}
    await served.client.post("/v1/completions", json=body, headers=headers)
    spans = served.traced.recent.spans(trace_id=trace_id)
    names = [span.name for span in spans]
    assert names.count("text_completion toy") == 1
    assert {"queue", "tokenize", "round prefill", "round verify", "cloud_forward"} <= set(names)
    assert "secret" not in "".join(span.to_json() for span in spans)


async def test_the_page_needs_nothing_from_elsewhere(served: Served) -> None:
    page = await served.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
