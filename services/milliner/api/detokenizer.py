"""Incremental detokenisation: the text that each new token adds, never half a character.

Decoding token by token is wrong twice: a character may need several tokens, and some tokenizers drop a leading space
from whatever they decode first. So a short window is decoded with and without the new token, and the difference is
the token's text once it does not end in the middle of a character. (The method is that of Hugging Face's
text-generation-inference and of vLLM.)
"""

from __future__ import annotations

from collections.abc import Sequence

from milliner.api import tokenizer

# Tokens of the prompt that the window starts with. Arbitrary; one would do for the space, several cover a character.
_PROMPT_WINDOW_TOKENS = 6
_INCOMPLETE = "\ufffd"


class Detokenizer:
    """One instance per answer."""

    def __init__(self, codec: tokenizer.Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._codec = codec
        self._ids = list(prompt_ids[-_PROMPT_WINDOW_TOKENS:])
        self._window = 0  # first token of the window
        self._read = len(self._ids)  # tokens whose text has been given out

    def feed(self, token_id: int) -> str:
        """The text that became certain with this token; "" while a character is incomplete."""
        self._ids.append(token_id)
        before, after = self._decode()
        if after == before:
            self._ids.pop()  # a special token: forgotten, so that a thousand of them do not make the window long
            return ""
        if after.endswith(_INCOMPLETE):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def flush(self) -> str:
        """What is left at the end of the answer: an incomplete character shows as U+FFFD."""
        before, after = self._decode()
        self._window, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _decode(self) -> tuple[str, str]:
        before = self._codec.decode(self._ids[self._window : self._read])
        after = self._codec.decode(self._ids[self._window :])
        return before, after
