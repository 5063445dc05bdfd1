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
    with pytest.raises(errors.InputError, match="not valid text") as refused:
        codec.encode_chat([{"role": "user", "content": "an emoji cut in half: \ud83d"}], {})
    assert refused.value.field == "messages"


def test_a_text_that_can_never_fit_is_refused_before_it_is_encoded(codec: tokenizer.HuggingFaceTokenizer) -> None:
    word = "x" * 3_900_000  # one word of them took 24 s
    with pytest.raises(errors.PromptTooLong, match="3900000") as refused:
        codec.encode(word, max_tokens=4096)
    assert refused.value.field == "prompt"
    with pytest.raises(errors.PromptTooLong) as refused:
        codec.encode_chat([{"role": "user", "content": word}], {}, max_tokens=4096)
    assert refused.value.field == "messages"
    longest = "\u2500" * 32  # a token of the demo model's, 96 bytes
    assert len(codec.encode(longest * 10, max_tokens=10)) == 10


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


@pytest.mark.parametrize("field", ["milliner", "chat_template_kwargs", "messages"])
def test_a_field_nested_without_end_is_refused_by_name(field: str) -> None:
    deep: object = 1
    for _ in range(900):
        deep = [deep]
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    with pytest.raises(errors.InputError, match="nested deeper") as refused:
        schema.parse(schema.ChatRequest, {**body, field: deep})
    assert refused.value.field == field
    assert schema.parse(schema.ChatRequest, {**body, "metadata": deep}).model == "m"  # ignored, whatever is in it


def test_a_member_of_a_union_is_no_part_of_a_fields_name() -> None:
    with pytest.raises(errors.InputError) as refused:
        schema.parse(schema.CompletionRequest, {"model": "m", "prompt": {"text": "hello"}})
    assert refused.value.field == "prompt"
