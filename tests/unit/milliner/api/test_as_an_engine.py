"""A device's own API in the place of an external engine: it takes what other devices ask such an engine."""

from __future__ import annotations

import pytest

from milliner.api import schema
from milliner.core import generation, types
from milliner.wire.external import dialects, openai


@pytest.mark.parametrize("temperature", [0.0, 0.8], ids=["greedy", "sampled"])
def test_what_devices_ask_an_engine_is_taken(temperature: float) -> None:
    """It refused a parameter that switches nothing on, and another dialect was tried, of which it knew nothing."""
    asked = dialects.Asked(
        model="demo",
        token_ids=(5, 6, 7),
        max_tokens=4,
        sampler=generation.Sampler(types.SamplingParams(temperature=temperature), seed=3),
        stop_token_ids=frozenset({0}),
        salt="tenant",
    )
    body = openai.Completions(in_logprobs=False).body(asked, stream=True)
    request = schema.parse(schema.CompletionRequest, body)
    assert (request.prompt, request.max_tokens, request.return_token_ids) == ([5, 6, 7], 4, True)
    assert (request.stop_token_ids, request.cache_salt, request.temperature) == ([0], "tenant", temperature)
