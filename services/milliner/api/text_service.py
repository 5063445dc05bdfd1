"""Text in, text out: wraps a strategy's `Generator` with tokenizer, stop strings and the request's record.

HTTP-free, so the local runner and tests can use it as it is. Runs on the event loop; encoding runs on
worker threads. Closing the iterator that `generate` returns closes the strategy's, which frees both tiers.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

from opentelemetry import trace

from milliner.api import detokenizer, protected, stop_strings, tokenizer
from milliner.api import errors as api_errors
from milliner.core import errors, ports, types
from milliner.strategies import base
from milliner.telemetry import attributes as names
from milliner.telemetry import record, summary, tracing
from milliner.telemetry.phases import Phase

T = TypeVar("T")

# Tokens of an answer whose client names no limit. The cloud reserves KV memory for them when the request begins, so the
# whole context would let a few idle chats fill a replica. Arbitrary; longer answers must be asked for.
DEFAULT_NEW_TOKENS = 1024

# From here on a text waits for other long ones. Arbitrary: some 10,000 tokens, encoded in some 20 ms.
LONG_TEXT_CHARACTERS = 40_000


@dataclasses.dataclass(frozen=True, slots=True)
class ServedModel:
    """What clients see of the model. `max_positions` bounds prompt and answer together."""

    name: str
    max_positions: int
    strategy: str
    topology: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class TextOptions:
    """How one answer is generated. `max_new_tokens` None: as many as fit; `limit_field` is what its client calls it."""

    max_new_tokens: int | None = None
    limit_field: str = "max_tokens"
    sampling: types.SamplingParams = dataclasses.field(default_factory=types.SamplingParams)
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    num_logprobs: int | None = None
    cache_salt: str = ""  # as in `types.GenerationRequest`
    protected_spans: protected.Spans = ()  # of the prompt's tokens, if it is refined


@dataclasses.dataclass(frozen=True, slots=True)
class TextDelta:
    """What became known at one moment. Text may lag behind tokens (half a character, a possible stop string).

    The last delta carries `finish_reason` and `summary` and neither text nor tokens; both tiers are free by then.
    """

    text: str
    tokens: tuple[types.EmittedToken, ...] = ()
    finish_reason: types.FinishReason | None = None
    summary: summary.RequestSummary | None = None


class TextService:
    """Serves one model with one strategy. `on_finished` gets every request's summary, failed ones included.

    `cloud_positions` says how many positions the cloud can hold of one session, 0 while nobody knows. Where the
    strategy `refines` prompts, chats say which tokens it must keep.
    """

    def __init__(
        self,
        *,
        generator: base.Generator,
        codec: tokenizer.Tokenizer,
        model: ServedModel,
        clock: ports.Clock,
        tracer: trace.Tracer | None = None,
        on_finished: Callable[[summary.RequestSummary], None] = lambda _: None,
        cloud_positions: Callable[[], int] = lambda: 0,
        refines: bool = False,
    ) -> None:
        self._refines = refines
        self.model = model
        self.codec = codec
        self.on_finished = on_finished
        self._generator = generator
        self._clock = clock
        self._tracer = tracer
        self._cloud_positions = cloud_positions
        # Two lanes: seconds of work on one client's megabytes hold up nobody's chat. The tokenizers work without the
        # interpreter's lock, and a text that is refused costs neither.
        self._short_texts = futures.ThreadPoolExecutor(1, thread_name_prefix="tokenize")
        self._long_texts = futures.ThreadPoolExecutor(1, thread_name_prefix="tokenize long")

    @property
    def max_positions(self) -> int:
        """Most tokens of prompt and answer together: the model's context, less where the cloud holds less."""
        return min(self.model.max_positions, self._cloud_positions() or self.model.max_positions)

    def close(self) -> None:
        """Ends the worker threads."""
        for lane in (self._short_texts, self._long_texts):
            lane.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def recording(
        self, operation: record.Operation, request_id: str, *, traceparent: str = ""
    ) -> Iterator[record.RequestRecord]:
        """A record from now on; whatever way the block ends, it is finished and handed to `on_finished` once."""
        request_record = record.RequestRecord(
            clock=self._clock,
            request_id=request_id,
            operation=operation,
            model=self.model.name,
            strategy=self.model.strategy,
            tracer=self._tracer,
            parent=tracing.parent_from(traceparent),
            attributes={names.TOPOLOGY: self.model.topology} if self.model.topology else None,
        )
        try:
            yield request_record
        except BaseException as error:
            self.on_finished(request_record.finish(finish_reason=None, error=api_errors.unwrapped(error)))
            raise
        self.on_finished(request_record.finish(finish_reason=None))

    async def tokenize(
        self, text: str, request_record: record.RequestRecord, *, add_special_tokens: bool = True
    ) -> tuple[int, ...]:
        """A text prompt's token ids."""
        with request_record.phase(Phase.TOKENIZE):
            ids = await self._on_thread(
                lambda: self.codec.encode(
                    text, add_special_tokens=add_special_tokens, max_tokens=self.model.max_positions
                ),
                num_characters=len(text),
            )
        return tuple(ids)

    async def tokenize_chat(
        self,
        messages: Sequence[Mapping[str, str]],
        request_record: record.RequestRecord,
        *,
        template_options: Mapping[str, Any] | None = None,
    ) -> tuple[int, ...]:
        """Messages' token ids, through the chat template."""
        with request_record.phase(Phase.TOKENIZE):
            ids = await self._on_thread(
                lambda: self.codec.encode_chat(messages, template_options or {}, max_tokens=self.model.max_positions),
                num_characters=sum(len(message["content"]) for message in messages),
            )
        return tuple(ids)

    async def protected_spans(
        self, messages: Sequence[Mapping[str, str]], *, template_options: Mapping[str, Any] | None = None
    ) -> protected.Spans:
        """Which tokens of the messages' prompt the strategy must keep; none where it keeps all."""
        if not self._refines:
            return ()
        return await self._on_thread(
            lambda: self.codec.protected_spans(messages, template_options or {}),
            num_characters=sum(len(message["content"]) for message in messages),
        )

    async def generate(
        self,
        prompt_ids: Sequence[int],
        options: TextOptions,
        request_record: record.RequestRecord,
        *,
        prompt_field: str = "prompt",
    ) -> AsyncGenerator[TextDelta, None]:
        """The answer as it becomes known; finishes `request_record` before its last delta.

        Raises `InputError` (empty prompt, ids outside the vocabulary), `PromptTooLong`, and what the strategy raises.
        """
        request = self._request(tuple(prompt_ids), options, request_record.request_id, prompt_field)
        request_record.prompt_tokens = len(request.prompt_ids)
        text = detokenizer.Detokenizer(self.codec, request.prompt_ids)
        stops = stop_strings.StopStrings(options.stop)
        finish_reason: types.FinishReason | None = None
        async with contextlib.aclosing(self._generator.generate(request, request_record)) as emissions:
            async for emission in emissions:
                shown, taken = "", 0
                for token in emission.tokens:
                    shown += stops.feed(text.feed(token.token_id))
                    taken += 1
                    if stops.matched is not None:
                        break
                finish_reason = emission.finish_reason if stops.matched is None else types.FinishReason.STOP
                if taken:
                    yield TextDelta(shown, emission.tokens[:taken])
                if finish_reason is not None:
                    break
        if finish_reason is None:
            raise AssertionError("the strategy ended without a finish reason")
        if stops.matched is None and (rest := self._rest(text, stops)):
            yield TextDelta(rest)
        if stops.matched is not None:  # perhaps only in the text that was held back until now
            finish_reason = types.FinishReason.STOP
        yield TextDelta("", (), finish_reason, request_record.finish(finish_reason=finish_reason.value))

    @staticmethod
    def _rest(text: detokenizer.Detokenizer, stops: stop_strings.StopStrings) -> str:
        last = stops.feed(text.flush())
        return last if stops.matched is not None else last + stops.flush()

    def _request(
        self, prompt_ids: tuple[int, ...], options: TextOptions, request_id: str, field: str
    ) -> types.GenerationRequest:
        if not prompt_ids:
            raise errors.InputError("is empty: at least one token is needed", field=field)
        if max(prompt_ids) >= self.codec.vocab_size or min(prompt_ids) < 0:
            raise errors.InputError(f"token ids must be between 0 and {self.codec.vocab_size - 1}", field=field)
        room = self.model.max_positions - len(prompt_ids)
        wanted = options.max_new_tokens
        if room < 1:
            raise errors.PromptTooLong(
                f"the model's context is {self.model.max_positions} tokens and the prompt has {len(prompt_ids)}: "
                "shorten it",
                field=field,
            )
        if wanted is not None and wanted > room:
            raise errors.PromptTooLong(
                f"is {wanted}: the model's context is {self.model.max_positions} tokens and the prompt has "
                f"{len(prompt_ids)}, so at most {room} are left for the answer",
                field=options.limit_field,
            )
        return types.GenerationRequest(
            request_id=request_id,
            prompt_ids=prompt_ids,
            max_new_tokens=self._default_new_tokens(len(prompt_ids)) if wanted is None else wanted,
            sampling=options.sampling,
            stop_token_ids=self._stop_token_ids(options),
            num_logprobs=options.num_logprobs,
            cache_salt=options.cache_salt,
            protected_spans=options.protected_spans,
        )

    def _stop_token_ids(self, options: TextOptions) -> frozenset[int]:
        """Those that the model can give: a client's list may be another model's, and hold what no message carries."""
        wanted = options.stop_token_ids | (frozenset() if options.ignore_eos else self.codec.eos_token_ids)
        return frozenset(token_id for token_id in wanted if token_id < self.codec.vocab_size)

    def _default_new_tokens(self, prompt_tokens: int) -> int:
        """As many as fit. A prompt that fills the cloud's cache asks for one: what never fits is the cloud's to say,
        which may have grown since."""
        return max(1, min(self.max_positions - prompt_tokens, DEFAULT_NEW_TOKENS))

    async def _on_thread(self, function: Callable[[], T], *, num_characters: int) -> T:
        lane = self._long_texts if num_characters > LONG_TEXT_CHARACTERS else self._short_texts
        return await asyncio.get_running_loop().run_in_executor(lane, function)
