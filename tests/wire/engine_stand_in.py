"""Servers that speak token ids as vLLM, SGLang and llama.cpp do, without a model: strict about what they are asked, and
faulty on demand. The token after a sequence is its last token plus one.

Fields and forms are those of vLLM's `CompletionRequest` (`return_token_ids` is not in older ones), SGLang's
`GenerateReqInput` and llama.cpp's server/README.md; a request with any other field is refused, which they may not do.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pydantic
import uvicorn
from starlette import applications, requests, responses, routing

VOCAB_SIZE = 1000
END = 99  # the model's end of text


class Speaks(enum.StrEnum):
    """How the stand-in answers."""

    VLLM = "vllm"
    VLLM_BEFORE = "vllm-before-token-ids"
    SGLANG = "sglang"
    SGLANG_INCREMENTAL = "sglang-incremental"
    LLAMA_CPP = "llama.cpp"
    TEXT = "text"  # OpenAI's own completions: no ids


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)


class VllmBody(_Strict):
    model: str
    prompt: list[int]
    max_tokens: int = pydantic.Field(ge=1)
    stream: bool
    n: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    ignore_eos: bool
    stop_token_ids: list[int]
    skip_special_tokens: bool
    seed: int | None = None
    cache_salt: str | None = pydantic.Field(default=None, min_length=1)
    logprobs: int | None = None
    return_tokens_as_token_ids: bool = False
    return_token_ids: bool = False


class SglangParams(_Strict):
    max_new_tokens: int = pydantic.Field(ge=1)
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    ignore_eos: bool
    stop_token_ids: list[int]
    skip_special_tokens: bool
    sampling_seed: int | None = pydantic.Field(default=None, lt=2**31)


class SglangBody(_Strict):
    input_ids: list[int]
    sampling_params: SglangParams
    stream: bool
    extra_key: str | None = None
    return_logprob: bool = False
    top_logprobs_num: int = 0


class LlamaCppBody(_Strict):
    model: str
    prompt: list[int]
    n_predict: int = pydantic.Field(ge=1)
    stream: bool
    return_tokens: bool
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    samplers: list[str]
    repeat_penalty: float
    ignore_eos: bool
    cache_prompt: bool
    seed: int | None = None
    n_probs: int = 0


class StandIn:
    """What the server does now; tests change it between requests."""

    def __init__(self, speaks: Speaks) -> None:
        self.speaks = speaks
        self.models = ["toy"]
        self.root = "/models/toy"
        self.max_positions = 500
        self.key = ""
        self.letters = "abcdefghij"  # token t is written as the letter t % 10
        self.can_tokenize = True
        self.takes_seeds = True  # SGLang before 0.5.3 does not
        self.tokenized: list[int] | None = None  # None: as the device
        self.leaves_stop_out = False  # of the ids, when a stop token ends an answer
        self.half_characters: set[int] = set()  # tokens that end within a character
        self.hidden: set[int] = set()  # tokens of which vLLM's stream tells the text alone
        self.per_event = 1  # tokens
        self.refuse: responses.Response | None = None
        self.before: dict[int, Any] = {}  # by index of the token: an event to send instead, bytes, or an exception
        self.gate = asyncio.Event()  # cleared: tokens from index `free` on wait
        self.gate.set()
        self.free = 0
        self.answers_looks = asyncio.Event()
        self.answers_looks.set()
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.ports: list[int] = []  # of the clients' connections, by request
        self.trickle: bytes = b""  # sent again and again where tokens wait for the gate
        self.lingers = asyncio.Event()  # cleared: an answer's last token is there, its end is not
        self.lingers.set()
        self.given: list[int] = []  # tokens computed, by answer
        self.ended: list[int] = []  # answers that are over, however

    def application(self) -> applications.Starlette:
        routes = [
            routing.Route("/v1/models", self._models),
            routing.Route("/tokenize", self._tokenize, methods=["POST"]),
        ]
        if self.speaks in (Speaks.VLLM, Speaks.VLLM_BEFORE, Speaks.TEXT):
            routes.append(routing.Route("/v1/completions", self._completions, methods=["POST"]))
        elif self.speaks in (Speaks.SGLANG, Speaks.SGLANG_INCREMENTAL):
            routes.append(routing.Route("/generate", self._generate, methods=["POST"]))
        else:
            routes.append(routing.Route("/completion", self._completion, methods=["POST"]))
        return applications.Starlette(routes=routes)

    # -- questions -----------------------------------------------------------------------------------------------

    async def _models(self, request: requests.Request) -> responses.Response:
        await self.answers_looks.wait()
        if (refusal := self._unauthorized(request)) is not None:
            return refusal
        cards = [{"id": name, "object": "model"} for name in self.models]
        for card in cards:
            if self.speaks is Speaks.LLAMA_CPP:
                card["meta"] = {"n_ctx": self.max_positions, "n_params": hash(self.root)}  # type: ignore[assignment]
            else:
                card["root"] = self.root
                card["max_model_len"] = self.max_positions  # type: ignore[assignment]
        return responses.JSONResponse({"object": "list", "data": cards})

    async def _tokenize(self, request: requests.Request) -> responses.Response:
        if not self.can_tokenize:
            return responses.JSONResponse({"detail": "Not Found"}, status_code=404)
        body = await request.json()
        assert body["prompt"] == body["content"] and not body["add_special_tokens"] and not body["add_special"]
        return responses.JSONResponse({"tokens": reference_ids() if self.tokenized is None else self.tokenized})

    def _unauthorized(self, request: requests.Request) -> responses.Response | None:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return responses.JSONResponse({"error": "Unauthorized"}, status_code=401)
        return None

    # -- answers -------------------------------------------------------------------------------------------------

    async def _completions(self, request: requests.Request) -> responses.Response:
        body, refusal = await self._read(request, VllmBody)
        if refusal is not None:
            return refusal
        if body.model not in self.models:
            told = {"message": f"The model `{body.model}` does not exist.", "type": "NotFoundError", "code": 404}
            return responses.JSONResponse({"error": told}, status_code=404)
        with_ids = body.return_token_ids and self.speaks is Speaks.VLLM
        as_ids = body.return_tokens_as_token_ids and self.speaks is not Speaks.TEXT

        def event(found: list[int], finish: str | None, _: list[int]) -> dict[str, Any]:
            choice: dict[str, Any] = {"index": 0, "text": self._text(found), "finish_reason": finish, "logprobs": None}
            if body.stream:
                found = [token for token in found if token not in self.hidden]
            if with_ids:
                choice["token_ids"] = found
            if body.logprobs is not None:
                names = [f"token_id:{token}" if as_ids else self._text([token]) for token in found]
                likely = {(f"token_id:{each}" if as_ids else self._text([each])): -0.5 * each for each in (1, 2, 3)}
                choice["logprobs"] = {
                    "tokens": names,
                    "token_logprobs": [-0.25] * len(found),
                    "top_logprobs": [{name: -0.25} | likely for name in names],
                    "text_offset": [0] * len(found),
                }
            return {"id": "cmpl-1", "object": "text_completion", "model": body.model, "choices": [choice]}

        stops = set(body.stop_token_ids) | (set() if body.ignore_eos else {END})
        if not body.stream:
            found = await self._plainly(body.prompt, body.max_tokens, stops)
            return responses.JSONResponse(event(found, "stop" if found[-1] in stops else "length", found))
        return self._stream(body.prompt, body.max_tokens, stops, event, done=True)

    async def _generate(self, request: requests.Request) -> responses.Response:
        body, refusal = await self._read(request, SglangBody)
        if refusal is not None:
            return refusal
        params = body.sampling_params
        if params.sampling_seed is not None and not self.takes_seeds:
            return self._breaking_off()

        def event(found: list[int], finish: str | None, so_far: list[int]) -> dict[str, Any]:
            told = found if self.speaks is Speaks.SGLANG_INCREMENTAL else so_far
            reason = {"type": finish, "matched": END} if finish == "stop" else finish and {"type": finish}
            meta: dict[str, Any] = {"id": "1", "finish_reason": reason, "completion_tokens": len(so_far)}
            if body.return_logprob:
                meta["output_token_logprobs"] = [[-0.25, token, None] for token in so_far]
                likely = [[-0.5 * each, each, None] for each in range(body.top_logprobs_num)]
                meta["output_top_logprobs"] = [likely for _ in so_far]
            return {"text": self._text(told), "output_ids": told, "meta_info": meta}

        stops = set() if params.ignore_eos else {END, *params.stop_token_ids}
        return self._stream(body.input_ids, params.max_new_tokens, stops, event, done=True)

    async def _completion(self, request: requests.Request) -> responses.Response:
        body, refusal = await self._read(request, LlamaCppBody)
        if refusal is not None:
            return refusal
        stops = set() if body.ignore_eos else {END}
        if not body.stream:
            found = await self._plainly(body.prompt, body.n_predict, stops)
            kind = "eos" if found and found[-1] in stops else "limit"
            told = {"tokens": found, "content": self._text(found), "tokens_predicted": len(found)}
            return responses.JSONResponse(told | {"stop": True, "stop_type": kind})

        def event(found: list[int], finish: str | None, so_far: list[int]) -> dict[str, Any]:
            told = {"content": self._text(found), "tokens": found, "tokens_predicted": len(so_far)}
            if finish is None:
                return told | {"stop": False}
            return told | {"stop": True, "stop_type": "eos" if finish == "stop" else "limit"}

        return self._stream(body.prompt, body.n_predict, stops, event, done=False)

    async def _read(self, request: requests.Request, kind: type[_Strict]) -> tuple[Any, responses.Response | None]:
        self.headers.append(dict(request.headers))
        assert request.client is not None
        self.ports.append(request.client.port)
        if (refusal := self._unauthorized(request) or self.refuse) is not None:
            return None, refusal
        try:
            body = kind.model_validate_json(await request.body())
        except pydantic.ValidationError as error:
            return None, responses.JSONResponse({"error": {"message": str(error)}}, status_code=422)
        self.bodies.append(body)
        return body, None

    def _stream(
        self, prompt: list[int], max_tokens: int, stops: set[int], event: Any, *, done: bool
    ) -> responses.Response:
        async def events() -> AsyncIterator[bytes]:
            answer, so_far = len(self.given), list[int]()
            self.given.append(0)
            untold: list[int] = []
            pending: list[int] = []  # told with the next event
            try:
                for index in range(max_tokens):
                    while index >= self.free and self.trickle and not self.gate.is_set():
                        yield self.trickle
                        await asyncio.sleep(0.01)
                    if index >= self.free:
                        await self.gate.wait()
                    if (instead := self.before.get(index)) is not None:
                        if isinstance(instead, Exception):
                            raise instead
                        yield instead if isinstance(instead, bytes) else _written(instead)
                        return
                    token = (so_far or prompt)[-1] + 1
                    self.given[answer] = index + 1
                    stopped = token in stops
                    finish = "stop" if stopped else "length" if index + 1 == max_tokens else None
                    so_far.append(token)
                    told = [] if stopped and self.leaves_stop_out else [token]
                    if stopped and self.leaves_stop_out:
                        so_far.pop()
                    if token in self.half_characters:
                        untold.append(token)  # which llama.cpp forgets
                        if finish is None:
                            continue
                        told = []
                    pending += told
                    if len(pending) < self.per_event and finish is None:
                        continue
                    yield _written(event(pending, finish, list(so_far)))
                    pending = []
                    if finish is not None:
                        break
                await self.lingers.wait()
                if done:
                    yield b"data: [DONE]\n\n"
            finally:
                self.ended.append(answer)

        return responses.StreamingResponse(events(), media_type="text/event-stream")

    @staticmethod
    def _breaking_off() -> responses.Response:
        async def events() -> AsyncIterator[bytes]:
            raise TypeError("got an unexpected keyword argument")
            yield b""

        return responses.StreamingResponse(events(), media_type="text/event-stream")

    async def _plainly(self, prompt: list[int], max_tokens: int, stops: set[int]) -> list[int]:
        found: list[int] = []
        while len(found) < max_tokens and not (found and found[-1] in stops):
            found.append((found or prompt)[-1] + 1)
        return found

    def _text(self, token_ids: list[int]) -> str:
        return "".join(self.letters[token % 10] for token in token_ids)


def reference_ids() -> list[int]:
    """What the device's tokenizer makes of the reference text."""
    return [7, 5, 3]


def text_of(token_ids: Any) -> str:
    """The device's text of tokens."""
    return "".join("abcdefghij"[token % 10] for token in token_ids)


def _written(event: dict[str, Any]) -> bytes:
    return b": a comment\r\n\r\ndata: " + json.dumps(event).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def serving(stand_in: StandIn, *, port: int = 0) -> AsyncIterator[str]:
    """Its base URL; leaving the block ends all its connections at once."""
    listening = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(stand_in.application(), log_config=None, lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[listening])  # not `serve`, which looks every 0.1 s whether it should end
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        stand_in.gate.set()
        stand_in.lingers.set()
        server.force_exit = True
        await server.shutdown(sockets=[listening])
