"""SGLang's own `/generate`: ids in as `input_ids`, out as `output_ids`. Pure.

Each event has either all ids so far or only the new ones, as the server was started (`--incremental-streaming-output`,
before that `--stream-output`): `meta_info.completion_tokens` tells them apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from milliner.core import errors
from milliner.wire.external import dialects, failures

_SEED_BITS = 31  # the first versions that take a seed keep it in 32 signed bits


@dataclasses.dataclass(frozen=True, slots=True)
class Generate:
    """Implements `dialects.Dialect`. In versions from before October 2025 a request with a seed breaks off. Later ones
    sample by it if started with `--enable-deterministic-inference`, where all requests without one have the same; else
    it is ignored."""

    seeded: bool = False

    @property
    def name(self) -> str:
        return "SGLang /generate with sampling_seed" if self.seeded else "SGLang /generate"

    @property
    def path(self) -> str:
        return "/generate"

    @property
    def below_root(self) -> bool:
        return True

    @property
    def keeps_apart(self) -> bool:
        return True

    def body(self, asked: dialects.Asked, *, stream: bool) -> dict[str, Any]:
        wanted = asked.sampler.num_logprobs
        body: dict[str, Any] = {
            "input_ids": list(asked.token_ids),
            "stream": stream,
            "sampling_params": {
                "max_new_tokens": asked.max_tokens,
                **asked.sampling,
            },
        }
        if self.seeded:
            body["sampling_params"]["sampling_seed"] = asked.sampler.seed & ((1 << _SEED_BITS) - 1)
        if asked.salt:
            body["extra_key"] = asked.salt
        if wanted is not None:
            body |= {"return_logprob": True, "top_logprobs_num": wanted}
        return body

    def reader(self) -> _Reader:
        return _Reader()


class _Reader:
    """Implements `dialects.Reader`."""

    def __init__(self) -> None:
        self._given = 0
        self._text = ""

    def read(self, event: Mapping[str, Any]) -> dialects.Piece:
        meta = event.get("meta_info")
        if not isinstance(meta, dict) or "output_ids" not in event:
            raise errors.ProtocolError("the server's event has no output_ids and meta_info", field=failures.FIELD)
        found = dialects.token_ids(event["output_ids"], name="output_ids")
        total = dialects.count(meta.get("completion_tokens"), name="completion_tokens")
        new = total - self._given
        if new < 0 or len(found) not in (total, new):
            raise errors.ProtocolError(
                f"the server gave {len(found)} output_ids where {new} of {total} were new", field=failures.FIELD
            )
        self._given = total
        return dialects.Piece(
            token_ids=found[len(found) - new :],
            likelihoods=_likelihoods(meta, new),
            text=self._new_text(dialects.text_of(event.get("text"), name="text")),
            finish=_finish(meta.get("finish_reason")),
        )

    def _new_text(self, text: str) -> str:
        """All text so far is told at each event, or only the new."""
        whole = text if text.startswith(self._text) else self._text + text
        new, self._text = whole[len(self._text) :], whole
        return new


def _finish(found: object) -> dialects.Finish | None:
    kind = found.get("type") if isinstance(found, dict) else found
    if kind == "abort" and isinstance(found, dict) and (why := found.get("message")):
        told = {"error": {"message": why, "code": found.get("status_code")}}  # a full queue is told here, behind a 200
        if (error := failures.of_event(told, where="the server")) is not None:
            raise error
    return dialects.finish_of(kind)


def _likelihoods(meta: Mapping[str, Any], new: int) -> tuple[dialects.Likelihood, ...]:
    """Of the last `new` tokens; each is (log-probability, id, text), and so are the likeliest in its place."""
    chosen = dialects.listed(meta.get("output_token_logprobs"), name="output_token_logprobs")
    if not new or len(chosen) < new:
        return ()
    tops = dialects.listed(meta.get("output_top_logprobs"), name="output_top_logprobs")
    tops = tops[-new:] if len(tops) >= new else [None] * new
    return tuple(
        dialects.Likelihood(_pair(one)[1], tuple(_pair(each) for each in dialects.listed(top, name="top_logprobs")))
        for one, top in zip(chosen[-new:], tops, strict=True)
    )


def _pair(found: object) -> tuple[int, float]:
    if not isinstance(found, list) or len(found) < 2 or type(found[1]) is not int:
        raise errors.ProtocolError("the server's output_token_logprobs are no triples", field=failures.FIELD)
    return found[1], dialects.number(found[0], name="output_token_logprobs")
