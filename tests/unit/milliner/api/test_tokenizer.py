"""The Hugging Face tokenizer behind the API: what it says and keeps to itself."""

from __future__ import annotations

import logging

import pytest
import transformers

from milliner.api import tokenizer
from milliner.demo import assets


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
