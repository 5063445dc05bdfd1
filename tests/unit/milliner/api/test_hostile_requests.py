"""What clients send that they should not, and what they send back as they got it."""

from __future__ import annotations

import pathlib

import pytest

from milliner.api import schema, tokenizer
from milliner.core import errors


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> tokenizer.HuggingFaceTokenizer:
    from milliner.demo import assets

    return tokenizer.HuggingFaceTokenizer.load(pathlib.Path(assets.model_dir()))


@pytest.mark.parametrize(
    "option", ["chat_template", "tokenize", "continue_final_message", "return_assistant_tokens_mask", "tools"]
)
def test_a_client_cannot_set_what_the_tokenizer_itself_takes(
    codec: tokenizer.HuggingFaceTokenizer, option: str
) -> None:
    with pytest.raises(errors.InputError, match="set by the server") as refused:
        codec.encode_chat([{"role": "user", "content": "hello"}], {option: "{{ 1 }}"})
    assert refused.value.field == f"chat_template_kwargs.{option}"


def test_variables_of_the_template_are_the_clients(codec: tokenizer.HuggingFaceTokenizer) -> None:
    assert codec.encode_chat([{"role": "user", "content": "hello"}], {"enable_thinking": False})


def test_half_a_surrogate_pair_is_refused_by_name(codec: tokenizer.HuggingFaceTokenizer) -> None:
    with pytest.raises(errors.InputError) as refused:
        codec.encode("an emoji cut in half: \ud83d")
    assert refused.value.field == "prompt"


def test_a_reply_may_be_sent_back_with_all_its_nulls() -> None:
    reply = {"role": "assistant", "content": "hi", "annotations": None, "audio": None, "function_call": None}
    request = schema.parse(
        schema.ChatRequest,
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello"}, reply],
            "stream_options": {"include_usage": None},
        },
    )
    assert [message.content for message in request.messages] == ["hello", "hi"]
