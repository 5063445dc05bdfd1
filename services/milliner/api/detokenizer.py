"""Incremental detokenisation: the text that each new token adds, never half a character.

A token is a piece of UTF-8, perhaps of less than a character. Bytes go through an incremental decoder: it holds back an
incomplete character, at most three bytes, and what can no longer become one shows as U+FFFD at once, so the pieces of
an answer add up to the decoding of all its bytes and each token costs the same. Tokens in the middle of a text carry
their leading space; only the first token of all may lose it, and there the tokenizer is asked. Called on the loop.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from milliner.api import tokenizer

_MAX_PENDING_BYTES = 3  # of an incomplete character: UTF-8 has four at most (RFC 3629)


class Detokenizer:
    """One instance per answer. A character that the prompt began and the answer ends belongs to the answer."""

    def __init__(self, codec: tokenizer.Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._codec = codec
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = all(token_id in codec.special_token_ids for token_id in prompt_ids)
        shown = (token_id for token_id in reversed(prompt_ids) if token_id not in codec.special_token_ids)
        last = [token_id for token_id, _ in zip(shown, range(_MAX_PENDING_BYTES), strict=False)]
        for token_id in reversed(last):  # a token has a byte or more: these hold all that the prompt left open
            self._utf8.decode(codec.token_bytes(token_id))

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token; "" for special tokens and while a character is incomplete."""
        if token_id in self._codec.special_token_ids:
            return ""
        raw = self._codec.token_bytes(token_id)
        if self._at_start:
            self._at_start = False
            first = self._codec.decode([token_id])  # some tokenizers write the text's first space and do not read it
            raw = raw if "\ufffd" in first else first.encode()
        return self._utf8.decode(raw)

    def flush(self) -> str:
        """What is left at the end of the answer: an incomplete character shows as U+FFFD."""
        return self._utf8.decode(b"", final=True)
