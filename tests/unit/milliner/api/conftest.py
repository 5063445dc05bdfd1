"""A toy tokenizer (one token per byte) and a toy strategy that says what it is told to, over a real application."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from starlette import applications

from milliner.api import app, protected, text_service
from milliner.core import errors, types
from milliner.telemetry import metrics, record, summary, tracing
from milliner.telemetry.phases import Phase

EOS = 256
ANSWER = "Hello, world"


class LoopClock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ByteTokenizer:
    """Token ids 0 to 255 are bytes, 256 is end of text."""

    vocab_size = 257
    eos_token_ids = frozenset({EOS})
    special_token_ids = frozenset({EOS})

    def encode(self, text: str, *, add_special_tokens: bool = True, max_tokens: int | None = None) -> list[int]:
        return list(text.encode())

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any], *, max_tokens: int | None = None
    ) -> list[int]:
        if messages[0]["content"] == "refuse":
            raise errors.InputError("the model's chat template refuses them", field="messages")
        return self.encode("".join(f"<{message['role']}>{message['content']}" for message in messages))

    def protected_spans(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> protected.Spans:
        text = "".join(f"<{message['role']}>{message['content']}" for message in messages)
        return protected.spans(text, [(index, index + 1) for index in range(len(text))], messages)

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_id for token_id in token_ids if token_id != EOS).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == EOS else bytes([token_id])


@dataclasses.dataclass
class ToyGenerator:
    """Says `answer`, `per_round` tokens at a time; may fail or stall before a round. Counts what is open."""

    answer: str = ANSWER
    per_round: int = 3
    fail_at_round: int | None = None
    error: Exception = dataclasses.field(default_factory=lambda: errors.UnavailableError("the cloud went away"))
    stall_at_round: int | None = None
    cached_tokens: tuple[int, ...] = (0,)  # of the prompts of requests, in turn
    open: int = 0
    closed: int = 0
    most_open: int = 0
    stalled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    release: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    requests: list[types.GenerationRequest] = dataclasses.field(default_factory=list)

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        request_record.cached_tokens = self.cached_tokens[len(self.requests) % len(self.cached_tokens)]
        self.requests.append(request)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            async for emission in self._rounds(request, request_record):
                yield emission
        finally:
            self.open -= 1
            self.closed += 1

    async def _rounds(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        ids = list(self.answer.encode()) + ([] if EOS in request.stop_token_ids else [EOS] * request.max_new_tokens)
        ids, reason = ids[: request.max_new_tokens], types.FinishReason.STOP
        if len(ids) == request.max_new_tokens:
            reason = types.FinishReason.LENGTH
        for index, start in enumerate(range(0, len(ids), self.per_round)):
            request_record.start_round(index, "verify" if index else "prefill")
            if index == self.stall_at_round:
                self.stalled.set()
                await self.release.wait()
            if index == self.fail_at_round:
                raise self.error
            with request_record.phase(Phase.CLOUD_FORWARD):
                await asyncio.sleep(0)
            origin = types.TokenOrigin.DRAFT if index else types.TokenOrigin.PREFILL
            tokens = tuple(self._token(i, origin, request.num_logprobs) for i in ids[start : start + self.per_round])
            request_record.emitted(len(tokens))
            request_record.count(num_drafted=2 if index else 0, num_accepted=1 if index else 0, bytes_up=10)
            request_record.end_round()
            yield types.Emission(tokens, reason if start + self.per_round >= len(ids) else None)

    @staticmethod
    def _token(token_id: int, origin: types.TokenOrigin, num_logprobs: int | None) -> types.EmittedToken:
        if num_logprobs is None:
            return types.EmittedToken(token_id, origin)
        return types.EmittedToken(token_id, origin, -0.5, ((token_id, -0.5), (ord("z"), -2.0))[:num_logprobs])


@dataclasses.dataclass
class Served:
    """An application over the toys, and a client of it."""

    app: applications.Starlette
    client: httpx.AsyncClient
    generator: ToyGenerator
    summaries: list[summary.RequestSummary]
    traced: tracing.Tracing

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json={"model": "toy", **body})

    async def complete(self, **body: Any) -> httpx.Response:
        return await self.post("/v1/completions", **{"prompt": "say", "max_tokens": 100, "temperature": 0, **body})

    async def chat(self, **body: Any) -> httpx.Response:
        return await self.post("/v1/chat/completions", **{"messages": [{"role": "user", "content": "say"}], **body})


def usage(prompt_tokens: int, completion_tokens: int, *, cached_tokens: int = 0) -> dict[str, object]:
    """An answer's token counts as the API tells them."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The stream's events; checks framing and that `[DONE]` comes last."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that other tasks bring about."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    generator, summaries, traced = ToyGenerator(), [], tracing.set_up(tier="device")
    device_metrics = metrics.DeviceMetrics(model="toy", strategy="Hat")

    def finished(one: summary.RequestSummary) -> None:
        summaries.append(one)
        device_metrics.observe(one)

    clock = LoopClock()
    service = text_service.TextService(
        generator=generator,
        codec=ByteTokenizer(),
        model=text_service.ServedModel(name="toy", max_positions=400, strategy="Hat", topology="chat"),
        clock=clock,
        tracer=traced.tracer,
        on_finished=finished,
    )
    application = app.create_app(
        service,
        clock=clock,
        device_metrics=device_metrics,
        limits=app.Limits(max_running=2, max_waiting=1, max_wait_s=5.0, max_body_bytes=10_000, max_body_s=0.5),
        why_not_ready=lambda: application.state.why_not_ready,
        kv_used_share=lambda: 0.5,
    )
    application.state.why_not_ready = ""
    transport = httpx.ASGITransport(app=application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://device") as client:
        yield Served(application, client, generator, summaries, traced)
    service.close()


@pytest.fixture
async def port(served: Served) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(served.app, log_level="warning", lifespan="off", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started or task.done())
    yield listener.getsockname()[1]
    server.should_exit = True
    await task
    listener.close()


@pytest.fixture
async def client(port: int) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        yield client
