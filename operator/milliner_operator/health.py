"""The operator's `/healthz` and `/readyz`, on its event loop: a loop that hangs answers neither."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web

_LIVENESS, _READINESS = "/healthz", "/readyz"
_CLOSING_S = 1.0  # arbitrary: answers take no time


@contextlib.asynccontextmanager
async def served(port: int, *, is_alive: Callable[[], bool], why_unready: Callable[[], str]) -> AsyncIterator[None]:
    """Serves both on all addresses of either family.

    `why_unready` is '' when the operator serves topologies. Raises OSError where the port is taken.
    """

    async def alive(_: web.Request) -> web.Response:
        return _answer("" if is_alive() else "reconciling has stopped")

    async def ready(_: web.Request) -> web.Response:
        return _answer(why_unready())

    application = web.Application()
    application.add_routes([web.get(_LIVENESS, alive), web.get(_READINESS, ready)])
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_CLOSING_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host=None, port=port).start()
        yield
    finally:
        await runner.cleanup()


def _answer(trouble: str) -> web.Response:
    return web.Response(status=503 if trouble else 200, text=f"{trouble or 'ok'}\n")
