"""llama.cpp's own `/completion` with `return_tokens`. Pure.

Its stream leaves the ids of tokens out that end within a character of several bytes, up to the one that finishes it:
`tokens_predicted` counts them, so that they are missed. A plain answer has them all (llama.cpp of October 2026).

It has one cache for all: a slot's, and host memory from which any slot takes what another has computed, so that no
choice of slots keeps tenants apart, and what a request without `cache_prompt` has computed is found by others all the
same. A prompt with a salt is computed anew, and so is one without on a device that has seen salts (`transport`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milliner.core import errors
from milliner.wire.external import dialects, failures

_SEED_BITS = 31  # of 32; all ones mean "any"


class Completion:
    """Implements `dialects.Dialect`. The server knows no stop tokens but its model's own end of text."""

    @property
    def name(self) -> str:
        return "llama.cpp /completion"

    @property
    def path(self) -> str:
        return "/completion"

    @property
    def below_root(self) -> bool:
        return True

    @property
    def keeps_apart(self) -> bool:
        return False

    def body(self, asked: dialects.Asked, *, stream: bool) -> dict[str, Any]:
        params, wanted = asked.sampler.params, asked.sampler.num_logprobs
        body: dict[str, Any] = {
            "model": asked.model,
            "prompt": list(asked.token_ids),
            "n_predict": asked.max_tokens,
            "stream": stream,
            "return_tokens": True,
            "temperature": 0.0 if params.greedy else params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "min_p": 0.0,
            "samplers": ["temperature", "top_k", "top_p"],  # in the order of `model.sampling`, and no others
            "repeat_penalty": 1.0,
            "ignore_eos": asked.ignores_end,
            "cache_prompt": asked.goes_on or not asked.salt,
        }
        if params.greedy:
            body["top_k"] = 1
        else:
            body["seed"] = asked.sampler.seed & ((1 << _SEED_BITS) - 1)
        if wanted is not None:
            body["n_probs"] = max(1, wanted)
        return body

    def reader(self) -> _Reader:
        return _Reader()


class _Reader:
    """Implements `dialects.Reader`."""

    def __init__(self) -> None:
        self._given = 0

    def read(self, event: Mapping[str, Any]) -> dialects.Piece:
        if "tokens" not in event or "tokens_predicted" not in event:
            raise errors.ProtocolError("the server's event has no tokens and tokens_predicted", field=failures.FIELD)
        found = dialects.token_ids(event["tokens"], name="tokens")
        self._given += len(found)
        return dialects.Piece(
            token_ids=found,
            likelihoods=_likelihoods(event, len(found)),
            text=dialects.text_of(event.get("content"), name="content"),
            finish=_finish(event),
            missing=self._given != dialects.count(event["tokens_predicted"], name="tokens_predicted"),
        )


def _finish(event: Mapping[str, Any]) -> dialects.Finish | None:
    if not event.get("stop"):
        return None
    match event.get("stop_type"):
        case "eos" | "word":
            return dialects.Finish.STOP
        case "limit":
            return dialects.Finish.LENGTH
    raise errors.ProtocolError(
        f"the server ended its answer with stop_type {event.get('stop_type')!r}", field=failures.FIELD
    )


def _likelihoods(event: Mapping[str, Any], count: int) -> tuple[dialects.Likelihood, ...]:
    found = dialects.listed(event.get("completion_probabilities"), name="completion_probabilities")
    if not count or len(found) != count:
        return ()
    return tuple(
        dialects.Likelihood(
            _pair(one)[1],
            tuple(_pair(each) for each in dialects.listed(one.get("top_logprobs"), name="top_logprobs")),
        )
        for one in found
    )


def _pair(found: object) -> tuple[int, float]:
    if not isinstance(found, dict) or type(found.get("id")) is not int:
        raise errors.ProtocolError("the server's completion_probabilities have no id", field=failures.FIELD)
    return found["id"], dialects.number(found.get("logprob"), name="logprob")
