"""Health on a port of its own: loading, ready, not ready, and what is not there yet."""

from __future__ import annotations

import httpx

from milliner.api import health


async def asked(told: health.Health, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=told.app()), base_url="http://role") as client:
        return await client.get(path)


async def test_a_role_that_loads_is_neither_up_nor_ready() -> None:
    told = health.Health()
    for path in ("/healthz", "/readyz", "/metrics", "/probe"):
        answer = await asked(told, path)
        assert answer.status_code == 503
        assert answer.json()["reason"] == "the model is being loaded"


async def test_a_role_that_is_up_may_not_be_ready() -> None:
    told = health.Health()
    told.loading, told.why_not_ready = "", lambda: "the certificate expired"
    assert (await asked(told, "/healthz")).status_code == 200
    answer = await asked(told, "/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the certificate expired")
    told.why_not_ready = lambda: ""
    assert (await asked(told, "/readyz")).json() == {"status": "ok"}


async def test_metrics_and_probe_are_what_the_role_gives() -> None:
    told = health.Health()
    told.render_metrics = lambda accept: (f"for {accept}".encode(), "text/plain")
    told.probe = lambda: {"ok": True}
    assert (await asked(told, "/metrics")).text == "for */*"
    assert (await asked(told, "/probe")).json() == {"ok": True}
