"""Whatever JSON a server sends, readers give a piece or a named error."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from milliner.core import errors
from milliner.wire.external import dialects, discovery, events, failures

JUNK: list[Any] = [None, True, -1, 0, 7, 2**70, 1.5, math.inf, math.nan, "", "stop", "token_id:", "token_id:x", [], {}]
JUNK += [[None], [[]], [{}], [-1], ["7"], {"id": 1}, {"id": "x", "logprob": None}, {"type": "stop"}, {"type": "abort"}]
LIKELY = {"id": 5, "logprob": -0.5}
VALID: dict[str, dict[str, Any]] = {
    "return_token_ids": {
        "choices": [
            {
                "index": 0,
                "text": "a",
                "token_ids": [5, 6],
                "finish_reason": "length",
                "logprobs": {
                    "tokens": ["token_id:5", "token_id:6"],
                    "token_logprobs": [-0.5, -0.25],
                    "top_logprobs": [{"token_id:5": -0.5}, {"token_id:6": -0.25}],
                },
            }
        ]
    },
    "SGLang /generate": {
        "text": "a",
        "output_ids": [5, 6],
        "meta_info": {
            "completion_tokens": 2,
            "finish_reason": {"type": "stop", "matched": 6},
            "output_token_logprobs": [[-0.5, 5, None], [-0.25, 6, None]],
            "output_top_logprobs": [[[-0.5, 5, None]], [[-0.25, 6, None]]],
        },
    },
    "llama.cpp /completion": {
        "content": "a",
        "tokens": [5],
        "tokens_predicted": 1,
        "stop": True,
        "stop_type": "eos",
        "completion_probabilities": [{**LIKELY, "top_logprobs": [LIKELY, LIKELY]}],
    },
}
VALID["return_tokens_as_token_ids"] = VALID["return_token_ids"]


def spoiled(event: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """The event with a part replaced, or left out."""
    found = copy.deepcopy(event)
    node: Any = found
    while True:
        key = draw.choice(list(node) if isinstance(node, dict) else range(len(node)))
        inner = node[key]
        if isinstance(inner, dict | list) and inner and draw.random() < 0.7:
            node = inner
            continue
        if isinstance(node, dict) and draw.random() < 0.2:
            del node[key]
        else:
            node[key] = copy.deepcopy(draw.choice(JUNK))
        return found


@pytest.mark.parametrize("dialect", discovery.DIALECTS, ids=lambda dialect: str(dialect.name))
def test_a_spoiled_event_is_read_or_refused_by_name(dialect: dialects.Dialect) -> None:
    whole = dialect.reader().read(VALID[dialect.name])
    assert whole.finish is not None
    assert len(whole.likelihoods) == len(whole.token_ids) > 0
    draw, fields = random.Random(7), list[str]()
    for _ in range(2000):
        event = spoiled(VALID[dialect.name], draw)
        try:
            piece = dialect.reader().read(event)
        except errors.MillinerError as error:
            fields.append(error.field)
            continue
        assert all(type(token) is int and token >= 0 for token in piece.token_ids)
        assert len(piece.likelihoods) in (0, len(piece.token_ids))
        assert all(math.isfinite(likelihood.logprob) for likelihood in piece.likelihoods)
    assert len(fields) > 200
    assert set(fields) == {failures.FIELD}


@pytest.mark.parametrize(
    "error", ["text", {"message": "text"}, {"message": {"detail": "text"}}, ["text"], {"error": 5}, {"code": 429}, 7]
)
def test_every_form_of_error_has_words(error: object) -> None:
    found = failures.of_event({"error": error}, where="there")
    assert found is not None
    assert str(found)


def deep() -> str:
    return "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize("text", [deep, lambda: '{"a":' + deep() + "}", lambda: "", lambda: "7", lambda: "null"])
def test_no_document_breaks_the_reader(text: Callable[[], str]) -> None:
    with pytest.raises(errors.ProtocolError):
        events.document(text())


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", deep().encode(), json.dumps({"error": None}).encode()])
def test_no_body_of_an_error_breaks_its_words(body: bytes) -> None:
    assert len(failures.words(body)) <= failures.MOST_WORDS
