"""`/v1/completions`: text or token ids in, one prompt or several, text chunks or a response out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from milliner.api import answering, schema, text_service, tokenizer
from milliner.core import types
from milliner.telemetry import record


class Completion:
    """One completion request; implements `answering.Flavour`."""

    operation: record.Operation = "text_completion"
    prompt_field = "prompt"

    def __init__(
        self, request: schema.CompletionRequest, context: answering.Context, codec: tokenizer.Tokenizer
    ) -> None:
        self.request = request
        self.num_prompts = len(request.prompts)
        self._context = context
        self._codec = codec

    @property
    def options(self) -> text_service.TextOptions:
        return dataclasses.replace(
            answering.options_of(self.request, self._context), num_logprobs=self.request.logprobs
        )

    async def tokenize(
        self, service: text_service.TextService, records: Sequence[record.RequestRecord]
    ) -> list[answering.PromptIds]:
        prompts: list[answering.PromptIds] = []
        for prompt, request_record in zip(self.request.prompts, records, strict=True):
            if isinstance(prompt, str):
                special = self.request.add_special_tokens
                prompts.append(await service.tokenize(prompt, request_record, add_special_tokens=special))
            else:
                prompts.append(tuple(prompt))
        return prompts

    def opening(self, choice: answering.Choice) -> Mapping[str, object] | None:
        if not self.request.echo:
            return None
        body = {"index": choice.index, "text": self._echo(choice), "logprobs": None, "finish_reason": None}
        return {**self.envelope(streamed=True), "choices": [body]}

    def chunk(self, choice: answering.Choice, delta: text_service.TextDelta) -> dict[str, object]:
        body: dict[str, object] = {
            "index": choice.index,
            "text": delta.text,
            "logprobs": self._logprobs(delta.tokens, offset=self._characters(choice.tokens)) if delta.tokens else None,
            "finish_reason": delta.finish_reason,
        }
        if self.request.return_token_ids:
            body["token_ids"] = [token.token_id for token in delta.tokens]
            body["prompt_token_ids"] = None if choice.tokens else list(choice.prompt_ids)  # once, with the first
        return {**self.envelope(streamed=True), "choices": [body]}

    def envelope(self, *, streamed: bool) -> dict[str, object]:
        return {
            "id": self._context.response_id,
            "object": "text_completion",
            "created": self._context.created_s,
            "model": self._context.model.name,
        }

    def response(self, choices: Sequence[answering.Choice]) -> dict[str, object]:
        bodies = []
        for choice in choices:
            body: dict[str, object] = {
                "index": choice.index,
                "text": self._echo(choice) + choice.text if self.request.echo else choice.text,
                "logprobs": self._logprobs(choice.tokens, offset=0),
                "finish_reason": choice.finish_reason,
            }
            if self.request.return_token_ids:
                body["token_ids"] = [token.token_id for token in choice.tokens]
                body["prompt_token_ids"] = list(choice.prompt_ids)
            bodies.append(body)
        return {**self.envelope(streamed=False), "choices": bodies}

    def _echo(self, choice: answering.Choice) -> str:
        prompt = self.request.prompts[choice.index // self.request.n]
        return prompt if isinstance(prompt, str) else self._codec.decode(prompt)

    def _characters(self, tokens: Sequence[types.EmittedToken]) -> int:
        return sum(len(self._text(token.token_id)) for token in tokens) if self.request.logprobs is not None else 0

    def _logprobs(self, tokens: Sequence[types.EmittedToken], *, offset: int) -> dict[str, object] | None:
        if self.request.logprobs is None:
            return None
        texts = [self._text(token.token_id) for token in tokens]
        offsets = []
        for token_text in texts:
            offsets.append(offset)
            offset += len(token_text)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {self._text(token_id): logprob for token_id, logprob in token.top_logprobs} for token in tokens
            ],
            "text_offset": offsets,
        }

    def _text(self, token_id: int) -> str:
        return self._codec.token_bytes(token_id).decode(errors="replace")
