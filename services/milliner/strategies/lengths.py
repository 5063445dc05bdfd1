"""Whether a prompt and its answer fit the model at all; checked before anything is opened."""

from __future__ import annotations

from milliner.core import errors, types


def check(request: types.GenerationRequest, *, max_positions: int) -> None:
    """Raises `InputError` for an empty prompt, `PromptTooLong` where prompt and answer exceed the model's context."""
    prompt_tokens = len(request.prompt_ids)
    if prompt_tokens == 0:
        raise errors.InputError("the prompt has no tokens: send at least one", field="prompt")
    if prompt_tokens + request.max_new_tokens > max_positions:
        raise errors.PromptTooLong(
            f"prompt ({prompt_tokens} tokens) and answer ({request.max_new_tokens}) exceed the context of "
            f"{max_positions}: shorten the prompt or ask for fewer tokens",
            field="max_tokens",
        )
