"""What the kubelet hears of an operator: whether it lives, and whether it serves topologies."""

from __future__ import annotations

import aiohttp
import pytest

from milliner_operator import health


async def asked(port: int, path: str, *, host: str = "127.0.0.1") -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}{path}") as answer:
        return answer.status, await answer.text()


async def test_an_operator_that_yields_lives_and_is_not_ready(unused_tcp_port: int) -> None:
    async with health.served(unused_tcp_port, is_alive=lambda: True, why_unready=lambda: "yielding to somebody"):
        assert await asked(unused_tcp_port, "/healthz") == (200, "ok\n")
        assert await asked(unused_tcp_port, "/readyz") == (503, "yielding to somebody\n")


async def test_an_operator_that_reconciles_nothing_any_more_does_not_live(unused_tcp_port: int) -> None:
    async with health.served(unused_tcp_port, is_alive=lambda: False, why_unready=lambda: ""):
        assert await asked(unused_tcp_port, "/healthz") == (503, "reconciling has stopped\n")
        assert await asked(unused_tcp_port, "/readyz") == (200, "ok\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_it_answers_in_both_families(host: str, unused_tcp_port: int) -> None:
    """It listened on 0.0.0.0, where the kubelet of a cluster of IPv6 alone finds nobody."""
    async with health.served(unused_tcp_port, is_alive=lambda: True, why_unready=lambda: ""):
        assert await asked(unused_tcp_port, "/readyz", host=host) == (200, "ok\n")
