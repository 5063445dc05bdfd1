"""Text to token ids and back: the port that the text service needs, and its implementation for checkpoint folders.

`HuggingFaceTokenizer.load` imports transformers and reads files: call it on a worker thread, never on the event loop.
"""

from __future__ import annotations

import functools
import inspect
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from milliner.api import protected, tokenizer_files
from milliner.core import errors

_MAX_COMPOSED = 4  # characters that NFC makes one of (Unicode Standard Annex 15: Greek letters with three accents)


class Tokenizer(Protocol):
    """What the text service calls; encoding happens on a worker thread, decoding of single tokens on the loop."""

    vocab_size: int
    eos_token_ids: frozenset[int]
    special_token_ids: frozenset[int]  # no part of the text

    def encode(self, text: str, *, add_special_tokens: bool = True, max_tokens: int | None = None) -> list[int]:
        """Raises `PromptTooLong`, before the work, for a text that is far too long for `max_tokens`."""
        ...

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any], *, max_tokens: int | None = None
    ) -> list[int]:
        """Messages through the model's chat template. Raises `InputError` where the template refuses them, and as
        `encode` does."""
        ...

    def protected_spans(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> protected.Spans:
        """Of what `encode_chat` gives for them, the tokens that a refined prompt keeps (`protected`)."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text without special tokens; incomplete UTF-8 becomes U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token in the middle of a text, also where they are part of a character."""
        ...


class HuggingFaceTokenizer:
    """A checkpoint folder's tokenizer. A model without chat template gets the messages' text, joined by newlines."""

    def __init__(self, tokenizer: Any, *, eos_token_ids: frozenset[int], vocab_size: int | None = None) -> None:
        """`vocab_size`: rows of the model's embedding, often more than the tokenizer knows, sometimes fewer."""
        self._tokenizer = tokenizer
        self.vocab_size: int = vocab_size if vocab_size is not None else len(tokenizer)
        self.eos_token_ids = eos_token_ids
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = backend is not None and "ByteLevel" in repr(backend.decoder)
        longest = max(map(len, tokenizer.get_vocab()), default=1)
        # a normalizer may write several characters as one: a letter and its accents, a Hangul syllable's parts
        composed = 1 if backend is not None and backend.normalizer is None else _MAX_COMPOSED
        self._max_token_characters = longest * composed
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marked = {token_id for token_id, token in added.items() if token.special}
        self.special_token_ids = frozenset(marked | set(tokenizer.all_special_ids))

    @classmethod
    def load(cls, path: pathlib.Path) -> HuggingFaceTokenizer:
        """Reads a folder. Raises `CheckpointError` where there is no usable tokenizer."""
        tokenizer = tokenizer_files.load(path)
        eos = {tokenizer.eos_token_id} - {None}
        config, generation = (
            tokenizer_files.json_object(path / name) for name in ("config.json", "generation_config.json")
        )
        for name, content in (("config.json", config), ("generation_config.json", generation)):
            eos.update(tokenizer_files.token_ids(content.get("eos_token_id"), file=name))
        text_config = config.get("text_config")  # of models that read more than text
        vocab_size = (text_config if isinstance(text_config, dict) else config).get("vocab_size")
        return cls(tokenizer, eos_token_ids=frozenset(eos), vocab_size=vocab_size)

    def encode(self, text: str, *, add_special_tokens: bool = True, max_tokens: int | None = None) -> list[int]:
        return self._encode(text, add_special_tokens=add_special_tokens, max_tokens=max_tokens, field="prompt")

    def encode_chat(
        self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any], *, max_tokens: int | None = None
    ) -> list[int]:
        text, templated = self._chat_text(messages, options)
        # a template has written the special tokens
        return self._encode(text, add_special_tokens=not templated, max_tokens=max_tokens, field="messages")

    def protected_spans(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> protected.Spans:
        if not self._tokenizer.is_fast:  # the others cannot tell which characters a token stands for
            return ()
        text, templated = self._chat_text(messages, options)
        encoded = self._tokenizer(text, add_special_tokens=not templated, return_offsets_mapping=True, verbose=False)
        return protected.spans(text, encoded["offset_mapping"], messages)

    def _chat_text(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> tuple[str, bool]:
        """The prompt's text, and whether a template has written it."""
        if self._tokenizer.chat_template:
            return self._through_template(messages, options), True
        return "\n".join(message["content"] for message in messages), False

    def _encode(self, text: str, *, add_special_tokens: bool, max_tokens: int | None, field: str) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # half of a surrogate pair: JSON can write one, UTF-8 cannot
            raise errors.InputError(f"is not valid text: {error.reason} at {error.start}", field=field) from error
        if max_tokens is not None and len(text) > max_tokens * self._max_token_characters:
            raise errors.PromptTooLong(
                f"the model's context is {max_tokens} tokens, which hold {max_tokens * self._max_token_characters} "
                f"characters at the very most; the text has {len(text)}: shorten it",
                field=field,
            )
        # verbose: transformers would warn of "indexing errors" where a prompt is too long, which is refused by name
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))

    def _through_template(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> str:
        import jinja2

        # What the tokenizer itself takes is not a client's to set: `chat_template` would be a program of theirs.
        reserved = inspect.signature(self._tokenizer.apply_chat_template).parameters.keys() & options.keys()
        if reserved:
            raise errors.InputError("is set by the server", field=f"chat_template_kwargs.{min(reserved)}")
        try:
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **options
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise errors.InputError(f"the model's chat template refuses them: {error}", field="messages") from error
        return text

    def decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def token_bytes(self, token_id: int) -> bytes:
        piece: str = self._tokenizer.convert_ids_to_tokens(token_id) or ""
        if self._byte_level and all(character in _byte_of_character() for character in piece):
            return bytes(_byte_of_character()[character] for character in piece)
        if not self._byte_level and (match := re.fullmatch(r"<0x([0-9A-F]{2})>", piece)):  # SentencePiece's fallback
            return bytes([int(match[1], 16)])
        if token_id in self.special_token_ids:
            return piece.encode()
        before, text = self._anchor
        return self.decode([*before, token_id]).removeprefix(text).encode()

    @functools.cached_property
    def _anchor(self) -> tuple[list[int], str]:
        """Tokens of an ordinary word, and their text: what is decoded behind them is in the middle of a text."""
        token_ids = self.encode("a", add_special_tokens=False)
        return token_ids, self.decode(token_ids)


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes bytes as printable characters: those of Latin-1 that print stand for themselves, the
    others for characters from U+0100 on (GPT-2's encoder.py, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    mapping = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return mapping | {chr(0x100 + index): byte for index, byte in enumerate(others)}
