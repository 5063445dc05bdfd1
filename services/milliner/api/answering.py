"""One HTTP request's answers: prompts times n choices, generated side by side and reported as they come.

Chat and text completion differ in how a prompt is tokenized and how deltas are written; a `Flavour` is that
difference. The order is: records (a trace per choice), slots, tokenization, generation. The choices of a request get
their slots together and die together; where there are more choices than slots, some wait for others of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from milliner.api import admission, cache_salts, schema, streaming, text_service, turn_taking
from milliner.core import errors, types
from milliner.telemetry import record, summary, summary_json
from milliner.telemetry.phases import Phase

PromptIds = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """What a response says about itself. `created_s` is wall-clock time, as OpenAI has it."""

    response_id: str
    created_s: int
    model: text_service.ServedModel
    traceparent: str = ""
    tenant: str = ""  # whose prefixes the request may share, unless it names a salt (`cache_salts`)


@dataclasses.dataclass(slots=True)
class Choice:
    """One answer so far. The detail lists stay empty where nobody asked for them."""

    index: int
    prompt_ids: PromptIds
    request_record: record.RequestRecord
    text: str = ""
    tokens: list[types.EmittedToken] = dataclasses.field(default_factory=list)
    finish_reason: types.FinishReason | None = None
    summary: summary.RequestSummary | None = None

    def take(self, delta: text_service.TextDelta) -> None:
        self.text += delta.text
        self.tokens.extend(delta.tokens)
        self.finish_reason = delta.finish_reason
        self.summary = delta.summary


class Flavour(Protocol):
    """Chat or text completion, bound to one request."""

    @property
    def operation(self) -> record.Operation: ...

    @property
    def request(self) -> schema.ChatRequest | schema.CompletionRequest: ...

    @property
    def num_prompts(self) -> int: ...

    @property
    def prompt_field(self) -> str: ...

    @property
    def options(self) -> text_service.TextOptions: ...

    async def tokenize(
        self, service: text_service.TextService, records: Sequence[record.RequestRecord]
    ) -> list[PromptIds]:
        """Each prompt's token ids; `records[i]` is where prompt i's phase goes."""
        ...

    def opening(self, choice: Choice) -> Mapping[str, object] | None:
        """The event before a choice's first delta, if there is one."""
        ...

    def chunk(self, choice: Choice, delta: text_service.TextDelta) -> dict[str, object]:
        """A delta's event; `choice` does not contain the delta yet."""
        ...

    def envelope(self, *, streamed: bool) -> dict[str, object]:
        """What every event or response begins with: id, object, created, model."""
        ...

    def response(self, choices: Sequence[Choice]) -> dict[str, object]:
        """The whole response where nothing was streamed."""
        ...


class Answering:
    """Runs flavours on a service; one per application."""

    def __init__(self, *, service: text_service.TextService, slots: admission.Admission) -> None:
        self._service = service
        self._slots = slots

    async def whole(self, flavour: Flavour, context: Context) -> dict[str, object]:
        """The response of a request that does not stream."""

        async def take(choice: Choice, delta: text_service.TextDelta) -> None:
            choice.take(delta)

        choices = await self._run(flavour, context, take)
        response = flavour.response(choices) | {"usage": usage(choices, flavour.request.n)}
        if flavour.request.milliner.explain:
            response["milliner"] = {
                "topology": context.model.topology,
                "strategy": context.model.strategy,
                "choices": [{"index": choice.index, **self._explained(choice.tokens, choice)} for choice in choices],
            }
        return response

    async def streamed(self, flavour: Flavour, context: Context, emit: streaming.Emit) -> None:
        """Emits the events of a request that streams, the usage event included."""
        request, opened = flavour.request, set[int]()
        chunks_say_usage = request.stream_options.continuous_usage_stats
        live: dict[int, Choice] = {}

        async def send(choice: Choice, delta: text_service.TextDelta) -> None:
            live[choice.index] = choice
            if choice.index not in opened:
                opened.add(choice.index)
                if (opening := flavour.opening(choice)) is not None:
                    await emit(self._with_usage(opening, live, flavour))
            event = flavour.chunk(choice, delta)
            choice.take(delta)
            if request.milliner.explain:
                event["milliner"] = self._explained(delta.tokens, choice)
            if delta.text or delta.finish_reason or chunks_say_usage or self._tokens_matter(flavour):
                await emit(self._with_usage(event, live, flavour))

        choices = await self._run(flavour, context, send)
        if request.stream_options.include_usage:
            await emit({**flavour.envelope(streamed=True), "choices": [], "usage": usage(choices, request.n)})

    async def _run(
        self,
        flavour: Flavour,
        context: Context,
        sink: Callable[[Choice, text_service.TextDelta], Awaitable[None]],
    ) -> list[Choice]:
        n = flavour.request.n
        ids = (
            [context.response_id]
            if flavour.num_prompts * n == 1
            else [f"{context.response_id}-{index}" for index in range(flavour.num_prompts * n)]
        )
        with contextlib.ExitStack() as stack:
            records = [
                stack.enter_context(
                    self._service.recording(flavour.operation, request_id, traceparent=context.traceparent)
                )
                for request_id in ids
            ]
            async with self._slots.slot(len(records)) as held:
                for request_record in records:
                    request_record.add(Phase.QUEUE, held.waited_s, tier="device")
                prompts = await flavour.tokenize(self._service, records[::n])
                choices = [Choice(index, prompts[index // n], each) for index, each in enumerate(records)]
                turns = turn_taking.Turns(held.slots)
                async with asyncio.TaskGroup() as group:
                    for choice, request_record in zip(choices, records, strict=True):
                        group.create_task(self._in_turn(turns, flavour, choice, request_record, sink))
        return choices

    async def _in_turn(
        self,
        turns: turn_taking.Turns,
        flavour: Flavour,
        choice: Choice,
        request_record: record.RequestRecord,
        sink: Callable[[Choice, text_service.TextDelta], Awaitable[None]],
    ) -> None:
        """One answer, once enough of the request's other answers have ended, both here and in the cloud."""
        while True:
            async with turns.turn(request_record) as turn:

                async def note(of: Choice, delta: text_service.TextDelta, turn: turn_taking.Turn = turn) -> None:
                    turn.admitted()
                    await sink(of, delta)

                try:
                    return await self._one(flavour, choice, request_record, note)
                except errors.CapacityError:
                    if not turn.may_come_again:
                        raise

    async def _one(
        self,
        flavour: Flavour,
        choice: Choice,
        request_record: record.RequestRecord,
        sink: Callable[[Choice, text_service.TextDelta], Awaitable[None]],
    ) -> None:
        options, offset = flavour.options, choice.index % flavour.request.n
        if offset and options.sampling.seed is not None:
            seeded = dataclasses.replace(options.sampling, seed=(options.sampling.seed + offset) % 2**63)
            options = dataclasses.replace(options, sampling=seeded)
        deltas = self._service.generate(choice.prompt_ids, options, request_record, prompt_field=flavour.prompt_field)
        async with contextlib.aclosing(deltas):
            async for delta in deltas:
                await sink(choice, delta)

    def _explained(self, tokens: Sequence[types.EmittedToken], choice: Choice) -> dict[str, object]:
        """Each token's text and origin; with the last delta, where the time went."""
        block: dict[str, object] = {"tokens": [self._explained_token(token) for token in tokens]}
        if choice.summary is not None:
            block |= summary_json.with_rounds(choice.summary)
        return block

    def _explained_token(self, token: types.EmittedToken) -> dict[str, object]:
        raw = self._service.codec.token_bytes(token.token_id)
        explained: dict[str, object] = {"id": token.token_id, "origin": token.origin.value}
        try:
            return explained | {"text": raw.decode()}
        except UnicodeDecodeError:  # part of a character: whoever shows it joins the bytes
            return explained | {"text": raw.decode(errors="replace"), "bytes": list(raw)}

    @staticmethod
    def _tokens_matter(flavour: Flavour) -> bool:
        """Whether an event without text still says something."""
        request = flavour.request
        return request.return_token_ids or request.milliner.explain or flavour.options.num_logprobs is not None

    @staticmethod
    def _with_usage(event: Mapping[str, object], live: Mapping[int, Choice], flavour: Flavour) -> Mapping[str, object]:
        options = flavour.request.stream_options
        if options.continuous_usage_stats:
            return {**event, "usage": usage(list(live.values()), flavour.request.n)}
        return {**event, "usage": None} if options.include_usage else event


def usage(choices: Sequence[Choice], n: int) -> dict[str, object]:
    """Token counts; each prompt counts once, however many answers it got: cached is what none of them computed."""
    prompts = {choice.index // n: len(choice.prompt_ids) for choice in choices}
    cached = dict[int, int]()
    for choice in choices:
        known = choice.request_record.cached_tokens
        cached[choice.index // n] = min(known, cached.get(choice.index // n, known))
    prompt_tokens = sum(prompts.values())
    completion_tokens = sum(len(choice.tokens) for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
    }


def options_of(request: schema.ChatRequest | schema.CompletionRequest, context: Context) -> text_service.TextOptions:
    """What both flavours take from a request in the same way; limits and log-probabilities are added by them."""
    return text_service.TextOptions(
        max_new_tokens=request.max_tokens,
        sampling=types.SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=max(0, request.top_k),
            seed=request.seed,
        ),
        stop=request.stop_strings,
        stop_token_ids=frozenset(request.stop_token_ids),
        ignore_eos=request.ignore_eos,
        cache_salt=cache_salts.of_request(request.cache_salt, tenant=context.tenant),
    )
