"""vLLM's completions, two ways: `return_token_ids`, and before it log-probabilities whose tokens are
written as "token_id:7" (`return_tokens_as_token_ids`). Whatever server speaks either is meant. Pure.

Every parameter that a server's generation_config.json might set is named, so that greedy is greedy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from milliner.core import errors
from milliner.wire.external import dialects, failures

_MARK = "token_id:"


@dataclasses.dataclass(frozen=True, slots=True)
class Completions:
    """`/completions` with a prompt of token ids. Implements `dialects.Dialect`."""

    in_logprobs: bool  # the ids are found among the log-probabilities

    @property
    def name(self) -> str:
        return "return_tokens_as_token_ids" if self.in_logprobs else "return_token_ids"

    @property
    def path(self) -> str:
        return "/completions"

    @property
    def below_root(self) -> bool:
        return False

    @property
    def keeps_apart(self) -> bool:
        return True

    def body(self, asked: dialects.Asked, *, stream: bool) -> dict[str, Any]:
        params, wanted = asked.sampler.params, asked.sampler.num_logprobs
        body: dict[str, Any] = {
            "model": asked.model,
            "prompt": list(asked.token_ids),
            "max_tokens": asked.max_tokens,
            "stream": stream,
            "n": 1,
            **asked.sampling,
        }
        if not params.greedy:
            body["seed"] = asked.sampler.seed
        if asked.salt:
            body["cache_salt"] = asked.salt
        if self.in_logprobs or wanted is not None:
            body |= {"logprobs": wanted or 0, "return_tokens_as_token_ids": True}
        if not self.in_logprobs:
            body["return_token_ids"] = True
        return body

    def reader(self) -> _Reader:
        return _Reader(in_logprobs=self.in_logprobs)


class _Reader:
    """Implements `dialects.Reader`."""

    def __init__(self, *, in_logprobs: bool) -> None:
        self._in_logprobs = in_logprobs

    def read(self, event: Mapping[str, Any]) -> dialects.Piece:
        choice = dialects.one_choice(event)
        if choice is None:
            return dialects.Piece()
        logprobs = choice.get("logprobs")
        logprobs = logprobs if isinstance(logprobs, dict) else {}
        if self._in_logprobs:
            tokens = dialects.listed(logprobs.get("tokens"), name="logprobs.tokens")
            token_ids = tuple(_marked(token) for token in tokens)
        else:
            token_ids = dialects.token_ids(choice.get("token_ids"), name="token_ids")
        likelihoods = _likelihoods(logprobs)
        text = dialects.text_of(choice.get("text"), name="text")
        finish = dialects.finish_of(choice.get("finish_reason"))
        return dialects.Piece(
            token_ids=token_ids,
            likelihoods=likelihoods if len(likelihoods) == len(token_ids) else (),
            text=text,
            finish=finish,
            missing=bool(text) and not token_ids and finish is None,  # a last event may bring held back text alone
        )


def _likelihoods(logprobs: Mapping[str, Any]) -> tuple[dialects.Likelihood, ...]:
    chosen = dialects.listed(logprobs.get("token_logprobs"), name="token_logprobs")
    tops = dialects.listed(logprobs.get("top_logprobs"), name="top_logprobs") or [None] * len(chosen)
    return tuple(
        dialects.Likelihood(dialects.number(one, name="token_logprobs"), _top(top))
        for one, top in zip(chosen, tops, strict=False)
    )


def _top(found: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(found, dict):
        return ()
    named = [(_marked(token), dialects.number(one, name="top_logprobs")) for token, one in found.items()]
    return tuple(sorted(named, key=lambda pair: -pair[1]))


def _marked(token: object) -> int:
    digits = token.removeprefix(_MARK) if isinstance(token, str) and token.startswith(_MARK) else ""
    if not (digits.isascii() and digits.isdigit()):
        raise errors.ProtocolError(f"the server wrote a token as {token!r}, not as {_MARK}7", field=failures.FIELD)
    return int(digits)
