"""Reading a checkpoint folder's tokenizer, and what is wrong with its files, in one line with the remedy.

Imports transformers and reads files: on a worker thread, never on the event loop. Called by `tokenizer` alone.
"""

from __future__ import annotations

import json
import pathlib
import textwrap
from typing import Any

from milliner.core import errors

# Any of these is a tokenizer: of the library of that name, SentencePiece, byte-pair encoding, WordPiece, tiktoken.
_FILES = (
    *("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("vocab.json", "vocab.txt", "tekken.json", "tiktoken.model"),
)
_MAX_WORDS_CHARACTERS = 240  # of what transformers says; arbitrary, the first sentence as a rule
_CHAT = [{"role": "user", "content": "a"}]


def load(path: pathlib.Path) -> Any:
    """transformers' tokenizer. Raises `CheckpointError` where there is none, or none that works."""
    import transformers

    if path.is_dir() and not any((path / name).is_file() for name in _FILES):
        raise errors.CheckpointError(
            f"there is no tokenizer in {path}: copy tokenizer.json and tokenizer_config.json of the model there",
            field="tokenizer.json",
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # of many types, plain `Exception` among them, all of them caused by the files
        words = textwrap.shorten(str(error), _MAX_WORDS_CHARACTERS, placeholder=" …")
        raise errors.CheckpointError(
            f"no usable tokenizer in {path} ({words}): download its files again", field="tokenizer.json"
        ) from error
    if tokenizer.chat_template:
        _check_template(tokenizer, path)
    return tokenizer


def _check_template(tokenizer: Any, path: pathlib.Path) -> None:
    """A template that does not parse is the folder's fault, to be said at the start and not to the first client."""
    import jinja2

    try:
        tokenizer.apply_chat_template(_CHAT, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateSyntaxError as error:
        file = next((name for name in ("chat_template.jinja", "chat_template.json") if (path / name).is_file()), "")
        raise errors.CheckpointError(
            f"the chat template of {path} does not parse (line {error.lineno}: {error.message}): download it again, or "
            "remove it to get the messages' plain text",
            field=file or "tokenizer_config.json",
        ) from error
    except (jinja2.TemplateError, TypeError, ValueError):
        return  # it parses; that it refuses this conversation is its right


def json_object(file: pathlib.Path) -> dict[str, Any]:
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


def token_ids(value: Any, *, file: str) -> list[int]:
    """One token id, several or none, as configurations write them."""
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(token_id) is int for token_id in found):
        raise errors.CheckpointError(f"eos_token_id is {value!r}: write a token id or a list of them", field=file)
    return found
