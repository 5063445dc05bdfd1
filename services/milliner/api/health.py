"""`/healthz`, `/readyz`, `/metrics` and a device's `/probe`: what a role says of itself, for kubelets and scrapers.

Served with the API, or by both roles on a port of their own (`app`), in plain text and without keys. The role fills in
the parts as they come to be; until then it is loading.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette import applications, requests, responses, routing

_LOADING = "the model is being loaded"


class Health:
    """See the module. `loading` says why the role is not up yet, and is empty from then on.

    `why_not_ready` says in words what is missing, or ""; `why_dead` what only a restart mends; `render_metrics` takes
    an `Accept` header and returns a body and its content type; `probe` returns the last round trip as JSON.
    """

    def __init__(self) -> None:
        self.loading = _LOADING
        self.why_not_ready: Callable[[], str] = lambda: ""
        self.why_dead: Callable[[], str] = lambda: ""
        self.render_metrics: Callable[[str], tuple[bytes, str]] | None = None
        self.probe: Callable[[], Mapping[str, object]] | None = None

    def routes(self) -> list[routing.Route]:
        return [
            routing.Route("/healthz", self.healthz, methods=["GET"]),
            routing.Route("/readyz", self.readyz, methods=["GET"]),
            routing.Route("/metrics", self.metrics, methods=["GET"]),
            routing.Route("/probe", self.last_probe, methods=["GET"]),
        ]

    def app(self) -> applications.Starlette:
        """An application of these paths alone."""
        return applications.Starlette(routes=self.routes())

    async def healthz(self, request: requests.Request) -> responses.Response:
        return _said(self.loading or self.why_dead())

    async def readyz(self, request: requests.Request) -> responses.Response:
        return _said(self.loading or self.why_not_ready())

    async def metrics(self, request: requests.Request) -> responses.Response:
        if self.render_metrics is None:
            return _said(self.loading or "there are no metrics")
        body, content_type = self.render_metrics(request.headers.get("accept", ""))
        return responses.Response(body, headers={"Content-Type": content_type})

    async def last_probe(self, request: requests.Request) -> responses.Response:
        if self.probe is None:
            return _said(self.loading or "there is no probe")
        return responses.JSONResponse(self.probe())


def _said(reason: str) -> responses.Response:
    body = {"status": "unavailable", "reason": reason} if reason else {"status": "ok"}
    return responses.JSONResponse(body, status_code=503 if reason else 200)
