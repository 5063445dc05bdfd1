"""Detokenisation against whole decoding, with byte-level and SentencePiece-like tokenizers, valid text and garbage."""

from __future__ import annotations

import json
import pathlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from milliner.api import detokenizer, tokenizer

from .conftest import EOS, ByteTokenizer

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

WORDS = ["naïve", "🎩", "帽子", "👩‍🚒", "a", "def", "\n", "  ", "é", "🇫🇷", "Ω", "don't", "\ufffd"]
TRAINING = ["def main(argv): return argv", "a naïve 帽子 and a hat don't sit"] * 4


def loaded(inner: Any) -> tokenizer.HuggingFaceTokenizer:
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    return tokenizer.HuggingFaceTokenizer(fast, eos_token_ids=frozenset({1}))


def byte_level() -> tokenizer.HuggingFaceTokenizer:
    """As GPT-2, Llama 3 and Qwen have it."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TRAINING, trainer)
    inner.add_tokens(["<tool call>"])  # not special: part of the text, with a space that is no byte's letter
    return loaded(inner)


def sentence_piece(*decoders: Any, prefix: bool) -> tokenizer.HuggingFaceTokenizer:
    """Spaces as ▁, characters outside the vocabulary as bytes."""
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, fuse_unk=True))
    steps = [tokenizers.normalizers.Replace(" ", "▁")]
    inner.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend("▁")] * prefix + steps)
    inner.decoder = tokenizers.decoders.Sequence(list(decoders))
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<s>", "</s>", *fallback], limit_alphabet=30, show_progress=False
    )
    inner.train_from_iterator([text.replace("帽子", "") for text in TRAINING], trainer)
    return loaded(tokenizers.Tokenizer.from_str(without_added(inner.to_str(), keep=2)))


def without_added(state: str, *, keep: int) -> str:
    """A tokenizer's JSON with its first `keep` added tokens only: the trainer made the bytes special to keep them."""
    fields = json.loads(state)
    fields["added_tokens"] = fields["added_tokens"][:keep]
    return json.dumps(fields)


def llama_2() -> tokenizer.HuggingFaceTokenizer:
    part = tokenizers.decoders
    return sentence_piece(part.Replace("▁", " "), part.ByteFallback(), part.Fuse(), part.Strip(" ", 1, 0), prefix=True)


def gemma() -> tokenizer.HuggingFaceTokenizer:
    part = tokenizers.decoders
    return sentence_piece(part.Replace("▁", " "), part.ByteFallback(), part.Fuse(), prefix=False)


def metaspace() -> tokenizer.HuggingFaceTokenizer:
    part = tokenizers.decoders
    return sentence_piece(part.ByteFallback(), part.Metaspace(), prefix=True)


def word_piece() -> tokenizer.HuggingFaceTokenizer:
    """A decoder that is neither: what a token adds depends on the one before."""
    vocabulary = ["<s>", "</s>", "[UNK]", "a", "hat", "##s", "sit", "##ting"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.decoder = tokenizers.decoders.WordPiece(cleanup=False)
    inner.add_special_tokens(["<s>", "</s>"])
    return loaded(inner)


def pieces(codec: tokenizer.Tokenizer, prompt: Sequence[int], ids: Sequence[int]) -> list[str]:
    text = detokenizer.Detokenizer(codec, prompt)
    return [*map(text.feed, ids), text.flush()]


@pytest.mark.parametrize("build", [byte_level, llama_2, gemma, metaspace])
def test_pieces_add_up_to_the_whole_text(build: Callable[[], tokenizer.HuggingFaceTokenizer]) -> None:
    codec, rng = build(), random.Random(4)
    for _ in range(150):
        prompt = codec.encode(rng.choice(["", "a hat", "naïve 🎩", " "]), add_special_tokens=False)
        prompt = [0, *prompt] if rng.random() < 0.5 else prompt
        text = "".join(rng.choice(["", " "]) + rng.choice(WORDS) for _ in range(rng.randint(0, 8)))
        answer = codec.encode(text, add_special_tokens=False)
        whole = codec.decode([*prompt, *answer])
        before = codec.decode(prompt)
        assert whole.startswith(before)
        assert before + "".join(pieces(codec, prompt, answer)) == whole


def test_decoders_of_other_kinds_add_up_too() -> None:
    codec, rng = word_piece(), random.Random(5)
    for _ in range(50):
        ids = [3, *(rng.randint(3, 7) for _ in range(6))]
        assert "".join(pieces(codec, [0], ids)) == codec.decode(ids)


def test_garbage_adds_up_and_is_not_withheld() -> None:
    """Any byte-level tokens: at most three bytes are pending, whatever came before."""
    codec, rng = byte_level(), random.Random(6)
    vocabulary = [token_id for token_id in range(codec.vocab_size) if token_id not in codec.special_token_ids]
    for _ in range(200):
        ids = rng.choices(vocabulary, k=rng.randint(0, 30))
        text, shown, raw = detokenizer.Detokenizer(codec, codec.encode("x")), "", b""
        for token_id in ids:
            shown += text.feed(token_id)
            raw += codec.token_bytes(token_id)
            assert shown in {raw[: len(raw) - held].decode(errors="replace") for held in range(4)}
        assert shown + text.flush() == codec.decode(ids)


def test_bytes_that_stay_invalid_are_shown_as_they_come() -> None:
    text = detokenizer.Detokenizer(ByteTokenizer(), b"x")
    assert [text.feed(0xFF) for _ in range(5)] == ["\ufffd"] * 5
    assert [text.feed(byte) for byte in b"\xf0\x9f\x8e"] == [""] * 3
    assert (text.feed(0x41), text.flush()) == ("\ufffdA", "")


@pytest.mark.parametrize("token_id", [EOS, 0xFF, 0x80, 0xF0])
def test_the_cost_of_a_token_does_not_grow(token_id: int) -> None:
    class Counting(ByteTokenizer):
        decoded = 0

        def decode(self, token_ids: Sequence[int]) -> str:
            self.decoded += len(token_ids)
            return super().decode(token_ids)

    codec = Counting()
    text = detokenizer.Detokenizer(codec, [1])
    out = "".join(text.feed(token_id) for _ in range(500)) + text.feed(65)
    assert out == "\ufffd" * (0 if token_id == EOS else 500) + "A"
    assert codec.decoded <= 500


def test_a_character_that_the_prompt_began_is_the_answers() -> None:
    hat = "🎩".encode()
    for cut in range(1, 4):
        assert "".join(pieces(ByteTokenizer(), list(b"a hat: " + hat[:cut]), list(hat[cut:]))) == "🎩"
        assert "".join(pieces(ByteTokenizer(), [*hat[:cut], EOS], [EOS, *hat[cut:]])) == "🎩"


def test_a_loaded_folder_is_read_in_the_same_way(tmp_path: pathlib.Path) -> None:
    codec = llama_2()
    codec._tokenizer.save_pretrained(tmp_path)
    again = tokenizer.HuggingFaceTokenizer.load(tmp_path)
    ids = again.encode("a hat 🎩", add_special_tokens=False)
    assert "".join(pieces(again, [0], ids)) == "a hat 🎩"
    assert "".join(pieces(again, [0, *ids], ids)) == " a hat 🎩"
    assert again.special_token_ids == {0, 1}
