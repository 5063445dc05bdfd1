"""The device's HTTP application: OpenAI's endpoints, health, metrics and the page. Built by the device role.

Routing, reading bodies and wiring only; answers are made by `answering`, health is told by `health`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.resources
import json
import time
from collections.abc import Callable
from typing import Any

from starlette import applications, exceptions, middleware, requests, responses, routing

from milliner.api import (
    admission,
    answering,
    chat,
    completions,
    errors,
    health,
    keys,
    schema,
    streaming,
    text_service,
)
from milliner.api import middleware as api_middleware
from milliner.core import errors as core_errors
from milliner.core import ports
from milliner.telemetry import metrics

# Arbitrary; 4 MiB is a prompt of a million tokens' text.
MAX_BODY_BYTES = 4 * 2**20
# The page is one file that talks to its own origin only.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What one device takes on. Defaults are arbitrary: a device serves one person, sometimes a few."""

    max_running: int = 8
    max_waiting: int = 32
    max_wait_s: float = 60.0
    max_body_bytes: int = MAX_BODY_BYTES
    max_body_s: float = 30.0  # from the headers to the body's end


class Api:
    """The endpoints; `why_refused` says in words why answers are refused, or ""."""

    def __init__(
        self,
        service: text_service.TextService,
        *,
        clock: ports.Clock,
        device_metrics: metrics.DeviceMetrics,
        limits: Limits,
        why_refused: Callable[[], str],
        kv_used_share: Callable[[], float] | None,
    ) -> None:
        self._service = service
        self._metrics = device_metrics
        self._limits = limits
        self._why_refused = why_refused
        self._kv_used_share = kv_used_share
        self._created_s = int(time.time())
        self._slots = admission.Admission(
            max_running=limits.max_running, max_waiting=limits.max_waiting, max_wait_s=limits.max_wait_s, clock=clock
        )
        self._answering = answering.Answering(service=service, slots=self._slots)
        self._page = importlib.resources.files("milliner.api").joinpath("page.html").read_text(encoding="utf-8")

    def routes(self) -> list[routing.Route]:
        return [
            routing.Route("/v1/chat/completions", self.chat, methods=["POST"]),
            routing.Route("/v1/completions", self.complete, methods=["POST"]),
            routing.Route("/v1/models", self.models, methods=["GET"]),
            routing.Route("/v1/models/{model:path}", self.model, methods=["GET"]),
            routing.Route("/", self.page, methods=["GET"]),
        ]

    async def chat(self, request: requests.Request) -> responses.Response:
        body = schema.parse(schema.ChatRequest, await self._body(request))
        context = self._context(request, "chatcmpl", body.model)
        return await self._answer(request, chat.Chat(body, context, self._service.codec), context)

    async def complete(self, request: requests.Request) -> responses.Response:
        body = schema.parse(schema.CompletionRequest, await self._body(request))
        context = self._context(request, "cmpl", body.model)
        return await self._answer(request, completions.Completion(body, context, self._service.codec), context)

    async def models(self, request: requests.Request) -> responses.Response:
        return responses.JSONResponse({"object": "list", "data": [self._model_card()]})

    async def model(self, request: requests.Request) -> responses.Response:
        self._check_model(request.path_params["model"])
        return responses.JSONResponse(self._model_card())

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics of now and their content type."""
        self._metrics.set_gauges(
            running=self._slots.running,
            waiting=self._slots.waiting,
            kv_used_share=self._kv_used_share() if self._kv_used_share is not None else None,
        )
        return self._metrics.render(accept)

    async def page(self, request: requests.Request) -> responses.Response:
        return responses.HTMLResponse(self._page, headers={"Content-Security-Policy": _PAGE_POLICY})

    async def _answer(
        self, request: requests.Request, flavour: answering.Flavour, context: answering.Context
    ) -> responses.Response:
        if reason := self._why_refused():
            raise core_errors.UnavailableError(f"not ready to serve: {reason}")
        if flavour.request.stream:
            return streaming.EventStream(lambda emit: self._answering.streamed(flavour, context, emit))
        body = await streaming.while_connected(request.receive, self._answering.whole(flavour, context))
        return responses.JSONResponse(body)

    def _context(self, request: requests.Request, prefix: str, model: str) -> answering.Context:
        self._check_model(model)
        return answering.Context(
            response_id=f"{prefix}-{request.state.request_id}",
            created_s=int(time.time()),
            model=self._service.model,
            traceparent=request.headers.get("traceparent", ""),
            tenant=getattr(request.state, "tenant", ""),
        )

    def _check_model(self, name: str) -> None:
        served = self._service.model.name
        if name != served:
            raise core_errors.UnknownModel(f"the model {name!r} is not served here; {served!r} is", field="model")

    def _model_card(self) -> dict[str, object]:
        model = self._service.model
        return {
            "id": model.name,
            "object": "model",
            "created": self._created_s,
            "owned_by": "milliner",
            "max_model_len": self._service.max_positions,
        }

    async def _body(self, request: requests.Request) -> dict[str, Any]:
        content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise errors.HttpError(415, "unsupported_media_type", "send JSON, with Content-Type: application/json")
        limits, raw = self._limits, bytearray()
        try:
            async with asyncio.timeout(limits.max_body_s):
                async for part in request.stream():
                    raw += part
                    if len(raw) > limits.max_body_bytes:
                        raise errors.HttpError(
                            413, "request_too_large", f"the body is larger than {limits.max_body_bytes} bytes"
                        )
        except TimeoutError:
            message = f"the body did not arrive within {limits.max_body_s:g} s"
            raise errors.HttpError(408, "request_timeout", message) from None
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise errors.HttpError(400, "invalid_json", f"the body is not valid JSON: {error}") from error
        if not isinstance(body, dict):
            raise errors.HttpError(400, "invalid_json", "the body must be a JSON object")
        return body


def _paths(application: applications.Starlette) -> str:
    """What the application answers, in words."""
    routes = (route for route in application.routes if isinstance(route, routing.Route))
    return ", ".join(
        f"{min((route.methods or {'GET'}) - {'HEAD'})} {route.path.replace(':path', '')}" for route in routes
    )


async def _http_exception(request: requests.Request, error: Exception) -> responses.Response:
    assert isinstance(error, exceptions.HTTPException)
    code, message = {
        404: ("not_found", f"there is nothing at {request.url.path}: use {_paths(request.app)}"),
        405: ("method_not_allowed", f"{request.method} is not allowed at {request.url.path}"),
    }.get(error.status_code, ("http_error", error.detail))
    response = errors.response_for(errors.HttpError(error.status_code, code, message))
    response.headers.update(error.headers or {})
    return response


def create_app(
    service: text_service.TextService,
    *,
    clock: ports.Clock,
    device_metrics: metrics.DeviceMetrics | None = None,
    limits: Limits | None = None,
    why_not_ready: Callable[[], str] = lambda: "",
    why_refused: Callable[[], str] | None = None,
    kv_used_share: Callable[[], float] | None = None,
    told_health: health.Health | None = None,
    api_keys: keys.Keys | None = None,
) -> applications.Starlette:
    """The application. `service.on_finished` should feed `device_metrics.observe`; without metrics that is done here.

    Args:
        why_not_ready: what is missing, in words, or "" when requests can be served; `/readyz` says so.
        why_refused: why a request for an answer is refused at once, or "". Default: `why_not_ready`. A device that
            has lost its cloud is not ready, but may let answers wait for it.
        kv_used_share: the device's KV cache in use, 0 to 1, asked at each scrape.
        told_health: what the role says of itself; readiness and metrics are filled in here. Default: made here.
        api_keys: who may ask; None: everyone.
    """
    model = service.model
    if device_metrics is None:
        device_metrics = metrics.DeviceMetrics(model=model.name, strategy=model.strategy)
        service.on_finished = device_metrics.observe
    api = Api(
        service,
        clock=clock,
        device_metrics=device_metrics,
        limits=limits or Limits(),
        why_refused=why_refused or why_not_ready,
        kv_used_share=kv_used_share,
    )
    told = told_health or health.Health()
    told.loading, told.why_not_ready, told.render_metrics = "", why_not_ready, api.render_metrics
    headers = {"X-Milliner-Topology": model.topology, "X-Milliner-Strategy": model.strategy}
    around = [middleware.Middleware(api_middleware.Envelope, headers=headers)]
    if api_keys is not None:
        around.append(middleware.Middleware(keys.RequireKey, keys=api_keys))
    return applications.Starlette(
        routes=[*api.routes(), *told.routes()],
        middleware=around,
        exception_handlers={exceptions.HTTPException: _http_exception},
    )
