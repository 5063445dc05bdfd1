"""The Hugging Face tokenizer behind the API: what it says and keeps to itself."""

from __future__ import annotations

import logging
import pathlib
import shutil

import pytest
import transformers

from milliner.api import tokenizer
from milliner.core import errors
from milliner.demo import assets


def test_a_folder_without_a_tokenizer_is_told_in_one_line_with_the_remedy(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(errors.CheckpointError, match=r"there is no tokenizer in .*copy tokenizer\.json") as refused:
        tokenizer.HuggingFaceTokenizer.load(tmp_path)
    assert "\n" not in str(refused.value)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.CheckpointError, match="download its files again") as refused:
        tokenizer.HuggingFaceTokenizer.load(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_chat_template_that_does_not_parse_is_found_at_the_start(tmp_path: pathlib.Path) -> None:
    """It was found by the first chat, and told to its client as a fault of the messages."""
    shutil.copytree(assets.model_dir(), tmp_path / "model")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text("{% for message in messages %}\n{{ message.content }}")
    with pytest.raises(errors.CheckpointError, match="does not parse") as refused:
        tokenizer.HuggingFaceTokenizer.load(tmp_path / "model")
    assert refused.value.field == "chat_template.jinja"
    template.write_text("{{ raise_exception('only with a system message') }}")  # its right
    loaded = tokenizer.HuggingFaceTokenizer.load(tmp_path / "model")
    with pytest.raises(errors.InputError, match="only with a system message"):
        loaded.encode_chat([{"role": "user", "content": "a"}], {})


def test_a_long_prompt_raises_no_alarm_of_indexing_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers logged it to the device's console; whoever asked gets `context_length_exceeded`."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", records.append)
    transformers.utils.logging.add_handler(handler)
    try:
        found = tokenizer.HuggingFaceTokenizer.load(assets.model_dir())
        assert len(found.encode("x " * 5_000)) > 4_096, "longer than the model's context"
    finally:
        transformers.utils.logging.remove_handler(handler)
    assert [record.getMessage() for record in records] == []
