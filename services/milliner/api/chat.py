"""`/v1/chat/completions`: messages in, chat chunks or a chat response out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from milliner.api import answering, protected, schema, text_service, tokenizer
from milliner.core import types
from milliner.telemetry import record


class Chat:
    """One chat request; implements `answering.Flavour`."""

    operation: record.Operation = "chat"
    num_prompts = 1
    prompt_field = "messages"

    def __init__(self, request: schema.ChatRequest, context: answering.Context, codec: tokenizer.Tokenizer) -> None:
        self.request = request
        self._context = context
        self._codec = codec
        self._protected: protected.Spans = ()

    @property
    def options(self) -> text_service.TextOptions:
        limit = self.request.max_completion_tokens
        return dataclasses.replace(
            answering.options_of(self.request, self._context),
            max_new_tokens=self.request.max_tokens if limit is None else limit,
            limit_field="max_tokens" if limit is None else "max_completion_tokens",
            num_logprobs=self.request.top_logprobs if self.request.logprobs else None,
            protected_spans=self._protected,
        )

    async def tokenize(
        self, service: text_service.TextService, records: Sequence[record.RequestRecord]
    ) -> list[answering.PromptIds]:
        messages = [message.for_template() for message in self.request.messages]
        options = self.request.chat_template_kwargs
        prompt_ids = await service.tokenize_chat(messages, records[0], template_options=options)
        self._protected = await service.protected_spans(messages, template_options=options)
        return [prompt_ids]

    def opening(self, choice: answering.Choice) -> Mapping[str, object]:
        """The role comes first, alone, so that a client can open a bubble before the first word."""
        delta = {"role": "assistant", "content": ""}
        event = self._event({"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None})
        if self.request.return_token_ids:
            event["prompt_token_ids"] = list(choice.prompt_ids)
        return event

    def chunk(self, choice: answering.Choice, delta: text_service.TextDelta) -> dict[str, object]:
        body: dict[str, object] = {
            "index": choice.index,
            "delta": {} if delta.finish_reason else {"content": delta.text},
            "logprobs": self._logprobs(delta.tokens) if delta.tokens else None,
            "finish_reason": delta.finish_reason,
        }
        if self.request.return_token_ids:
            body["token_ids"] = [token.token_id for token in delta.tokens]
        return self._event(body)

    def envelope(self, *, streamed: bool) -> dict[str, object]:
        return {
            "id": self._context.response_id,
            "object": "chat.completion.chunk" if streamed else "chat.completion",
            "created": self._context.created_s,
            "model": self._context.model.name,
        }

    def response(self, choices: Sequence[answering.Choice]) -> dict[str, object]:
        bodies = []
        for choice in choices:
            body: dict[str, object] = {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": self._logprobs(choice.tokens),
                "finish_reason": choice.finish_reason,
            }
            if self.request.return_token_ids:
                body["token_ids"] = [token.token_id for token in choice.tokens]
            bodies.append(body)
        response = {**self.envelope(streamed=False), "choices": bodies}
        if self.request.return_token_ids:
            response["prompt_token_ids"] = list(choices[0].prompt_ids)
        return response

    def _event(self, body: Mapping[str, object]) -> dict[str, object]:
        return {**self.envelope(streamed=True), "choices": [body]}

    def _logprobs(self, tokens: Sequence[types.EmittedToken]) -> dict[str, object] | None:
        if not self.request.logprobs:
            return None
        content = []
        for token in tokens:
            top = [self._token(token_id, logprob) for token_id, logprob in token.top_logprobs]
            content.append({**self._token(token.token_id, token.logprob), "top_logprobs": top})
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float | None) -> dict[str, object]:
        raw = self._codec.token_bytes(token_id)
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}
