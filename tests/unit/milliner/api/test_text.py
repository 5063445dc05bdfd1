"""Stop strings, tokenizers of checkpoint folders, and the error map."""

from __future__ import annotations

import json
import pathlib
import random
import shutil

import pytest

from milliner.api import errors as api_errors
from milliner.api import schema, stop_strings, tokenizer
from milliner.core import errors

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")


def all_subclasses(cls: type[errors.MillinerError]) -> set[type[errors.MillinerError]]:
    return {cls}.union(*(all_subclasses(sub) for sub in cls.__subclasses__()))


@pytest.mark.parametrize("cls", sorted(all_subclasses(errors.MillinerError), key=str))
def test_every_error_has_a_status_that_fits_its_branch(cls: type[errors.MillinerError]) -> None:
    error = cls("found, expected, remedy", field="some.field")
    response = api_errors.response_for(error)
    expected = {
        errors.InputError: range(400, 500),
        errors.CapacityError: range(429, 430),
        errors.UnavailableError: range(503, 505),
        errors.ProtocolError: range(502, 503),
    }
    branch = next((statuses for base, statuses in expected.items() if issubclass(cls, base)), range(500, 501))
    assert response.status_code in branch
    told = api_errors.body_of(error)["error"]
    assert isinstance(told, dict)
    assert (told["message"], told["param"]) == ("found, expected, remedy", "some.field")
    assert set(told) == {"message", "type", "param", "code"}
    assert ("retry-after" in response.headers) == issubclass(cls, errors.CapacityError | errors.UnavailableError)


def shown(text: str, stops: list[str], rng: random.Random) -> tuple[str, str | None]:
    """What is shown of `text` fed in random pieces, and the stop string that ended it."""
    matcher, out, rest = stop_strings.StopStrings(stops), "", text
    while rest and matcher.matched is None:
        size = rng.randint(1, 4)
        piece, rest = rest[:size], rest[size:]
        out += matcher.feed(piece)
    return out + matcher.flush(), matcher.matched


def test_stop_strings_agree_with_a_search_of_the_whole_text() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        text = "".join(rng.choice("ab") for _ in range(rng.randint(0, 12)))
        stops = ["".join(rng.choice("ab") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(0, 3))]
        out, matched = shown(text, stops, rng)
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        assert (matched is not None) == bool(found)
        if matched is None:
            assert out == text
        else:
            # With pieces of several characters the stop string that ends first need not be the one that starts
            # first; either way the text ends where a stop string begins.
            assert text.startswith(out + matched)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A byte-level BPE tokenizer with a chat template, as checkpoint folders hold it."""
    path = tmp_path_factory.mktemp("checkpoint")
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["def main(argv): return argv"], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    fast.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    fast.save_pretrained(path)
    (path / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    return path


def test_a_checkpoint_folders_tokenizer(folder: pathlib.Path) -> None:
    codec = tokenizer.HuggingFaceTokenizer.load(folder)
    text = "naïve 🎩"
    ids = codec.encode(text)
    assert codec.decode(ids) == text
    assert b"".join(map(codec.token_bytes, ids)) == text.encode()
    assert any(codec.token_bytes(token_id) == b"\xf0" for token_id in ids)  # part of a character
    assert codec.eos_token_ids == {1, 7}
    assert codec.decode([*ids, 1]) == text
    assert codec.decode(codec.encode_chat([{"role": "user", "content": "hi"}], {})) == "[user] hi\n[assistant] "


def test_what_a_chat_template_refuses_is_the_clients_error(folder: pathlib.Path) -> None:
    codec = tokenizer.HuggingFaceTokenizer.load(folder)
    with pytest.raises(errors.InputError, match="no system") as refused:
        codec.encode_chat([{"role": "system", "content": "hi"}], {})
    assert refused.value.field == "messages"
    with pytest.raises(errors.InputError, match="is set by the server"):
        codec.encode_chat([{"role": "user", "content": "hi"}], {"tokenize": True})


def test_without_chat_template_messages_are_plain_text(folder: pathlib.Path) -> None:
    inner = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    inner.chat_template = None
    codec = tokenizer.HuggingFaceTokenizer(inner, eos_token_ids=frozenset())
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    assert codec.decode(codec.encode_chat(messages, {})) == "a\nb"


def test_a_folder_without_tokenizer_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.CheckpointError, match="tokenizer"):
        tokenizer.HuggingFaceTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", "{nope"),
        ("generation_config.json", "[]"),
        ("generation_config.json", '{"eos_token_id": "</s>"}'),
        ("config.json", '{"eos_token_id": [1, null]}'),
        ("tokenizer.json", "{nope"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "Unheard"}}'),
    ],
)
def test_a_damaged_file_of_the_folder_is_named(
    folder: pathlib.Path, tmp_path: pathlib.Path, name: str, content: str
) -> None:
    damaged = tmp_path / "checkpoint"
    shutil.copytree(folder, damaged)
    (damaged / name).write_text(content)
    with pytest.raises(errors.CheckpointError) as refused:
        tokenizer.HuggingFaceTokenizer.load(damaged)
    assert refused.value.field == name


@pytest.mark.parametrize("config", [{"vocab_size": 64}, {"vocab_size": 900, "text_config": {"vocab_size": 64}}])
def test_the_vocabulary_is_the_embeddings(
    folder: pathlib.Path, tmp_path: pathlib.Path, config: dict[str, object]
) -> None:
    """A tokenizer may know ids that the model has no row for: its text is then the client's error, not a crash."""
    smaller = tmp_path / "checkpoint"
    shutil.copytree(folder, smaller)
    (smaller / "config.json").write_text(json.dumps(config))
    assert tokenizer.HuggingFaceTokenizer.load(folder).vocab_size > 64
    assert tokenizer.HuggingFaceTokenizer.load(smaller).vocab_size == 64


def test_ids_beyond_the_tokenizer_are_no_text(folder: pathlib.Path) -> None:
    """Embeddings are often padded: the model may say an id that the tokenizer does not know."""
    codec = tokenizer.HuggingFaceTokenizer.load(folder)
    assert (codec.token_bytes(5000), codec.decode([5000])) == (b"", "")


def test_neutral_and_ignored_fields_are_not_fields_of_ours() -> None:
    """A field that the models understand must not be swallowed before they see it."""
    known = set(schema.ChatRequest.model_fields) | set(schema.CompletionRequest.model_fields)
    assert not known & (schema.IGNORED | set(schema.NEUTRAL))
