"""Text to token ids and back: the port that the text service needs, and its implementation for checkpoint folders.

`HuggingFaceTokenizer.load` imports transformers and reads files: call it on a worker thread, never on the event loop.
"""

from __future__ import annotations

import functools
import inspect
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from milliner.core import errors


class Tokenizer(Protocol):
    """What the text service calls; encoding happens on a worker thread, decoding of single tokens on the loop."""

    vocab_size: int
    eos_token_ids: frozenset[int]
    special_token_ids: frozenset[int]  # no part of the text

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def encode_chat(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> list[int]:
        """Messages through the model's chat template. Raises `InputError` where the template refuses them."""
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
        added = getattr(tokenizer, "added_tokens_decoder", {})
        marked = {token_id for token_id, token in added.items() if token.special}
        self.special_token_ids = frozenset(marked | set(tokenizer.all_special_ids))

    @classmethod
    def load(cls, path: pathlib.Path) -> HuggingFaceTokenizer:
        """Reads a folder. Raises `CheckpointError` where there is no usable tokenizer."""
        import transformers

        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        except Exception as error:  # of many types, plain `Exception` among them, all of them caused by the files
            raise errors.CheckpointError(f"no usable tokenizer in {path}: {error}", field="tokenizer.json") from error
        eos = {tokenizer.eos_token_id} - {None}
        config, generation = (_json_object(path / name) for name in ("config.json", "generation_config.json"))
        for name, content in (("config.json", config), ("generation_config.json", generation)):
            eos.update(_token_ids(content.get("eos_token_id"), file=name))
        text_config = config.get("text_config")  # of models that read more than text
        vocab_size = (text_config if isinstance(text_config, dict) else config).get("vocab_size")
        return cls(tokenizer, eos_token_ids=frozenset(eos), vocab_size=vocab_size)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # half of a surrogate pair: JSON can write one, UTF-8 cannot
            raise errors.InputError(f"is not valid text: {error.reason} at {error.start}", field="prompt") from error
        # verbose: transformers would warn of "indexing errors" where a prompt is too long, which is refused by name
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))

    def encode_chat(self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any]) -> list[int]:
        if not self._tokenizer.chat_template:
            return self.encode("\n".join(message["content"] for message in messages))
        import jinja2

        # What the tokenizer itself takes is not a client's to set: `chat_template` would be a program of theirs.
        reserved = inspect.signature(self._tokenizer.apply_chat_template).parameters.keys() & options.keys()
        if reserved:
            raise errors.InputError("is set by the server", field=f"chat_template_kwargs.{min(reserved)}")
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **options
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise errors.InputError(f"the model's chat template refuses them: {error}", field="messages") from error
        return self.encode(text, add_special_tokens=False)  # the template has written them

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


def _json_object(file: pathlib.Path) -> dict[str, Any]:
    """What a JSON file of the folder holds, nothing where there is none. Raises `CheckpointError` with its name."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.CheckpointError(
            f"{file} is not readable JSON ({error}): download it again", field=file.name
        ) from error
    if not isinstance(content, dict):
        raise errors.CheckpointError(f"{file} holds no JSON object: download it again", field=file.name)
    return content


def _token_ids(value: Any, *, file: str) -> list[int]:
    """One token id, several or none, as configurations write them."""
    token_ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int for token_id in token_ids):
        raise errors.CheckpointError(f"eos_token_id is {value!r}: write a token id or a list of them", field=file)
    return token_ids


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes bytes as printable characters: those of Latin-1 that print stand for themselves, the
    others for characters from U+0100 on (GPT-2's encoder.py, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    mapping = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return mapping | {chr(0x100 + index): byte for index, byte in enumerate(others)}
