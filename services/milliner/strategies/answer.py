"""Where an answer ends: stop tokens and the limit of new tokens, applied to whatever a round emits."""

from __future__ import annotations

from milliner.core import types


class Answer:
    """The tokens of one answer so far. `take` cuts what a round emitted and says whether the answer is finished."""

    def __init__(self, request: types.GenerationRequest) -> None:
        self._stop_token_ids = request.stop_token_ids
        self._max_new_tokens = request.max_new_tokens
        self.num_tokens = 0
        self.finish_reason: types.FinishReason | None = None

    @property
    def remaining(self) -> int:
        return self._max_new_tokens - self.num_tokens

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def take(self, tokens: tuple[types.EmittedToken, ...]) -> types.Emission:
        """The part of `tokens` that belongs to the answer; a stop token ends it and is not part of it."""
        kept: list[types.EmittedToken] = []
        for token in tokens:
            if token.token_id in self._stop_token_ids:
                self.finish_reason = types.FinishReason.STOP
                break
            kept.append(token)
            if self.num_tokens + len(kept) >= self._max_new_tokens:
                self.finish_reason = types.FinishReason.LENGTH
                break
        self.num_tokens += len(kept)
        return types.Emission(tokens=tuple(kept), finish_reason=self.finish_reason)
