"""What an external engine is: the model that it serves, the dialect that it speaks, whether its tokenizer is ours.

Asked once, and again after trouble or where another model is listed by the same name. The dialect is found by asking
for a few tokens in one after the other, since a version number says nothing of a server that only resembles another.
The tokenizer is compared by `/tokenize`, or where the server lacks that by the text that it makes of the tokens it
gives. What cannot be compared are the weights.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from milliner.core import errors, generation, types
from milliner.wire.external import dialects, failures, llama_cpp, openai, sglang
from milliner.wire.external import server as servers

DIALECTS: tuple[dialects.Dialect, ...] = (
    openai.Completions(in_logprobs=False),
    openai.Completions(in_logprobs=True),
    sglang.Generate(),
    llama_cpp.Completion(),
)
# What may be asked for besides in newer versions, which older ones answer in any way: taken where it works.
_BETTER: Mapping[dialects.Dialect, dialects.Dialect] = {sglang.Generate(): sglang.Generate(seeded=True)}
# Words, digits, accents, an emoji, code and white space: tokenizers of two families differ somewhere in it.
REFERENCE_TEXT = "The quick brown fox, 12345 times – déjà vu 🎩 naïve\n\tdef f(x):  return x  # 東京"
# Of a model's card: vLLM's and SGLang's path and parent, llama.cpp's sizes. Not when it was made, which is now.
_TELLING = ("root", "parent", "meta")
_PROBE_TOKENS = 4
_GREEDY = generation.Sampler(types.SamplingParams(), seed=0)
_NO_ROUTE = (errors.ProtocolError, errors.InputError)


@dataclasses.dataclass(frozen=True, slots=True)
class Tokenizer:
    """The device's tokenizer as far as it is compared: `REFERENCE_TEXT` in token ids, and ids as text."""

    reference_ids: tuple[int, ...]  # without special tokens
    vocab_size: int
    decode: Callable[[Sequence[int]], str]  # without special tokens; incomplete UTF-8 becomes U+FFFD


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """What a server lists of a model. `told` is what would tell another one of the same name: where its weights come
    from, how large it is."""

    name: str
    max_positions: int  # most tokens of prompt and answer; 0: it did not say
    told: str


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A server that can take the place of cloud replicas."""

    listed: Listed
    dialect: dialects.Dialect

    @property
    def model(self) -> str:
        return self.listed.name

    @property
    def max_positions(self) -> int:
        """See `Listed`."""
        return self.listed.max_positions


async def discover(server: servers.HttpServer, *, wanted: str | None, tokenizer: Tokenizer) -> Found:
    """Asks everything. Raises `DigestMismatch` for another model or tokenizer, `ProtocolError` for a server that speaks
    no token ids or wants another key, `UnavailableError` where nobody answers, `CapacityError` where it is full."""
    listed = choose(await server.look(), wanted=wanted, where=server.where)
    refusals: list[str] = []
    for dialect in DIALECTS:
        asked = dialects.Asked(
            model=listed.name, token_ids=tokenizer.reference_ids, max_tokens=_PROBE_TOKENS, sampler=_GREEDY
        )
        try:
            pieces = await _answer(server, dialect, asked)
        except _NO_ROUTE as error:
            if isinstance(error, errors.DigestMismatch) or error.field == failures.KEY_FIELD:
                raise
            refusals.append(f"{dialect.name}: {error.message}")
            continue
        if any(piece.token_ids for piece in pieces):
            _check_vocabulary(pieces, tokenizer)
            if not await _tokenizes_alike(server, listed.name, tokenizer):
                _check_text(pieces, tokenizer)
            return Found(listed, await _better(server, dialect, asked))
        refusals.append(f"{dialect.name}: it gives no token ids")
    raise errors.ProtocolError(
        f"{server.where} takes no token ids or gives none back; vLLM, SGLang and llama.cpp's server do "
        f"({'; '.join(refusals)})",
        field=failures.URL_FIELD,
    )


def choose(catalogue: Mapping[str, Any], *, wanted: str | None, where: str) -> Listed:
    """The model to ask for, from what `/models` lists. Raises `DigestMismatch` where it is not there, or is one of
    several and not named."""
    cards = [card for card in dialects.listed(catalogue.get("data"), name="data") if isinstance(card, dict)]
    names = {card["id"]: card for card in cards if isinstance(card.get("id"), str)}
    listed = ", ".join(names) or "none"
    if wanted is None:
        originals = [name for name, card in names.items() if not card.get("parent")]  # the others are LoRA adapters
        if len(originals) != 1:
            raise errors.DigestMismatch(
                f"{where} serves {len(originals)} models ({listed}): name one of them", field=failures.MODEL_FIELD
            )
        wanted = originals[0]
    for name, card in names.items():
        aliases = card.get("aliases")
        if wanted == name or (isinstance(aliases, list) and wanted in aliases):
            told = {field: card.get(field) for field in _TELLING}
            return Listed(wanted, _positions(card), json.dumps(told, sort_keys=True))
    raise errors.DigestMismatch(f"{where} serves {listed}, not {wanted}", field=failures.MODEL_FIELD)


def _positions(card: Mapping[str, Any]) -> int:
    """vLLM and SGLang say `max_model_len`, llama.cpp what one of its slots has."""
    meta = card.get("meta")
    found = card.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return found if isinstance(found, int) and found > 0 else 0


async def _answer(server: servers.HttpServer, dialect: dialects.Dialect, asked: dialects.Asked) -> list[dialects.Piece]:
    reader, pieces = dialect.reader(), list[dialects.Piece]()
    body = dialect.body(asked, stream=True)
    async with server.stream(dialect.path, body=body, below_root=dialect.below_root, headers={}) as events:
        async for event in events:
            pieces.append(reader.read(event))
            if pieces[-1].finish is not None:
                events.finished()
                break
    return pieces


async def _better(server: servers.HttpServer, dialect: dialects.Dialect, asked: dialects.Asked) -> dialects.Dialect:
    """The newer form of a dialect that was found, where the server knows it."""
    if (better := _BETTER.get(dialect)) is None:
        return dialect
    try:
        pieces = await _answer(server, better, asked)
    except errors.MillinerError:
        return dialect
    return better if any(piece.token_ids for piece in pieces) else dialect


def _check_vocabulary(pieces: Sequence[dialects.Piece], tokenizer: Tokenizer) -> None:
    for token_id in _ids(pieces):
        if token_id >= tokenizer.vocab_size:
            raise errors.DigestMismatch(
                f"the server gave token {token_id}, the device's model has {tokenizer.vocab_size}: another tokenizer",
                field=failures.MODEL_FIELD,
            )


def _check_text(pieces: Sequence[dialects.Piece], tokenizer: Tokenizer) -> None:
    """The server's text of its tokens is ours: not so with another vocabulary. Half a character tells nothing."""
    ids = _ids(pieces)
    told, ours = "".join(piece.text for piece in pieces), tokenizer.decode(ids)
    if any(piece.missing for piece in pieces) or not told or "\ufffd" in told + ours:
        return
    if told.strip() != ours.strip():  # some tokenizers leave the first space of a text out
        raise errors.DigestMismatch(
            f"the server writes the tokens {ids} as {told!r}, the device's tokenizer as {ours!r}: another tokenizer",
            field=failures.MODEL_FIELD,
        )


def _ids(pieces: Sequence[dialects.Piece]) -> list[int]:
    return [token_id for piece in pieces for token_id in piece.token_ids]


async def _tokenizes_alike(server: servers.HttpServer, model: str, tokenizer: Tokenizer) -> bool:
    """Whether both make the same tokens of a text; False where the server cannot be asked. Raises `DigestMismatch`."""
    body = {
        "model": model,
        "prompt": REFERENCE_TEXT,
        "add_special_tokens": False,
        "content": REFERENCE_TEXT,  # llama.cpp's names of the two
        "add_special": False,
    }
    try:
        answer = await server.ask("POST", "/tokenize", body=body, within_s=server.timeouts.look_s, below_root=True)
    except errors.MillinerError:  # a gateway in front of it may answer anything for what it does not know
        return False
    if "tokens" not in answer:
        return False
    found = dialects.token_ids(answer["tokens"], name="tokens")
    if found != tokenizer.reference_ids:
        raise errors.DigestMismatch(
            f"{server.where} tokenizes {REFERENCE_TEXT[:20]!r}… into {len(found)} tokens ({list(found[:8])}…), the "
            f"device into {len(tokenizer.reference_ids)} ({list(tokenizer.reference_ids[:8])}…): another tokenizer",
            field=failures.MODEL_FIELD,
        )
    return True
