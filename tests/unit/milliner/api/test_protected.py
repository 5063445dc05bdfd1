"""Which tokens of a chat a refined prompt keeps."""

from __future__ import annotations

from collections.abc import Sequence

from milliner.api import protected, text_service, tokenizer
from milliner.demo import assets
from milliner.telemetry import record

from . import conftest as toys

Message = dict[str, str]


def characters(text: str) -> list[tuple[int, int]]:
    return [(index, index + 1) for index in range(len(text))]


def kept(text: str, messages: Sequence[Message], width: int = 1) -> list[str]:
    offsets = [(at, min(len(text), at + width)) for at in range(0, len(text), width)]
    return [text[offsets[start][0] : offsets[end - 1][1]] for start, end in protected.spans(text, offsets, messages)]


def test_the_system_prompt_and_the_users_last_message() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": " Who wrote it? "},
    ]
    text = "".join(f"<{each['role']}>{each['content']}" for each in messages)
    assert kept(text, messages) == ["Be brief.", "Who wrote it?"]
    first, last = kept(text, messages, width=4)
    assert (first, last) == ("Be brief.<us", "> Who wrote it? "), "whole tokens"


def test_of_long_messages_what_is_instruction_and_what_is_question() -> None:
    messages = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "u" * 400}]
    assert kept("s" * 400 + "|" + "u" * 400, messages) == ["s" * 256, "u" * 256]


def test_a_question_asked_twice_is_the_last_one() -> None:
    messages = [{"role": "user", "content": "why"}, {"role": "user", "content": "why"}]
    assert protected.spans("why.why", characters("why.why"), messages) == ((4, 7),)


def test_what_the_template_has_changed_and_empty_messages_have_no_span() -> None:
    messages = [{"role": "system", "content": "LOUD"}, {"role": "user", "content": "  "}]
    assert protected.spans("loud", characters("loud"), messages) == ()


def test_messages_that_share_a_token_are_one_span() -> None:
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": "cd"}]
    assert protected.spans("abcd", [(0, 3), (3, 4)], messages) == ((0, 2),)


def test_a_real_tokenizers_spans_hold_the_messages_text() -> None:
    found = tokenizer.HuggingFaceTokenizer.load(assets.model_dir())
    messages = [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": "Once upon a time there was a fox."},
        {"role": "user", "content": "Wo liegt Köln? 🙂"},
    ]
    ids = found.encode_chat(messages, {})
    texts = [found.decode(ids[start:end]) for start, end in found.protected_spans(messages, {})]
    assert len(texts) == 2
    assert "Answer in one sentence." in texts[0]
    assert "Wo liegt Köln? 🙂" in texts[1]
    assert "fox" not in "".join(texts)


async def test_only_a_strategy_that_refines_is_told() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    for refines in (False, True):
        generator = toys.ToyGenerator()
        service = text_service.TextService(
            generator=generator,
            codec=toys.ByteTokenizer(),
            model=text_service.ServedModel(name="toy", max_positions=400, strategy="PDDevice"),
            clock=toys.LoopClock(),
            refines=refines,
        )
        told = record.RequestRecord(clock=toys.LoopClock(), request_id="r", operation="chat", model="m", strategy="s")
        spans = await service.protected_spans(messages)
        ids = await service.tokenize_chat(messages, told)
        async for _ in service.generate(ids, text_service.TextOptions(protected_spans=spans), told):
            pass
        (request,) = generator.requests
        found = [bytes(request.prompt_ids[start:end]).decode() for start, end in request.protected_spans]
        assert found == (["Be brief.", "Who?"] if refines else [])
        service.close()
