"""What an external engine does wrong has a name of its own: refusals, deaths, silence, garbage, another model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pathlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette import responses
from tests.wire import engine_stand_in, toy_tokens
from tests.wire.engine_stand_in import Speaks, StandIn
from tests.wire.test_external_engines import DIALECTS, TOKENIZER, connected, wanted

from milliner.contract import role_config
from milliner.core import errors
from milliner.wire.external import events, transport
from milliner.wire.external import server as servers

IMPATIENT = servers.Timeouts(connect_s=5.0, look_s=0.2, quiet_s=0.1, busy_s=0.5)


def refusal(status: int, error: object, **headers: str) -> responses.Response:
    return responses.JSONResponse({"error": error}, status_code=status, headers=headers)


@pytest.mark.parametrize(
    ("answer", "kind", "field", "words"),
    [
        (refusal(401, "Unauthorized"), errors.ProtocolError, "cloud.engine.external.apiKeySecretRef", "Unauthorized"),
        (refusal(403, {"message": "no"}), errors.ProtocolError, "cloud.engine.external.apiKeySecretRef", "another key"),
        (
            refusal(404, {"message": "The model `toy` does not exist."}),
            errors.DigestMismatch,
            "cloud.engine.external.model",
            "`toy` does not exist",
        ),
        (
            refusal(404, {"message": "model option `return_token_ids` is off"}),
            errors.ProtocolError,
            "cloud.engine.external.url",
            "is off",
        ),
        (
            refusal(400, {"message": "This model's maximum context length is 500 tokens.", "code": 400}),
            errors.PromptTooLong,
            "prompt",
            "500 tokens",
        ),
        (
            refusal(400, {"message": "no such thing"}),
            errors.ProtocolError,
            "cloud.engine.external.url",
            "no such thing",
        ),
        (refusal(429, {"message": "full"}), errors.CapacityError, "cloud.engine.external", "full"),
        (refusal(500, {"message": "EngineDeadError"}), errors.UnavailableError, "cloud.engine.external", "DeadError"),
        (refusal(503, {"message": "Loading model"}), errors.UnavailableError, "cloud.engine.external", "Loading"),
        (refusal(504, "late"), errors.DeadlineExceeded, "cloud.engine.external", "late"),
        (responses.RedirectResponse("http://elsewhere/"), errors.ProtocolError, "cloud.engine.external.url", "307"),
        (responses.HTMLResponse("<p>login</p>"), errors.ProtocolError, "cloud.engine.external.url", "text/html"),
    ],
)
async def test_refusals_are_told_apart(
    answer: responses.Response, kind: type[errors.MillinerError], field: str, words: str
) -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.refuse = answer
        with pytest.raises(kind, match=words) as refused:
            await cloud.open(wanted())
        assert type(refused.value) is kind
        assert refused.value.field == field


async def test_a_full_server_says_when_to_come_back() -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await cloud.find()
        for status, told, seconds in ((429, "7", 7.0), (503, "3", 3.0), (429, "100000", 60.0), (429, "soon", 1.0)):
            stand_in.refuse = responses.PlainTextResponse("full", status_code=status, headers={"Retry-After": told})
            with pytest.raises(errors.CapacityError) as refused:
                await cloud.open(wanted())
            assert refused.value.retry_after_s == seconds
        assert await cloud.why_unreachable() == "", "it serves somebody"


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_a_server_that_dies_in_mid_answer_is_lost_after_what_it_gave(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    troubles = 0

    def heard() -> None:
        nonlocal troubles
        troubles += 1

    async with connected(stand_in) as cloud:
        await cloud.find()
        cloud.on_trouble = heard
        stand_in.before[3] = ConnectionResetError("killed")
        stream = await cloud.open(wanted(10))
        assert [(await stream.receive()).step.token.token_id for _ in range(3)] == [101, 102, 103]
        for _ in range(2):
            with pytest.raises(errors.UnavailableError):
                await stream.receive()
        assert troubles == 1


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        (b"data: {nonsense\n\n", errors.ProtocolError, "no JSON"),
        (b"data: [1, 2]\n\n", errors.ProtocolError, "no object"),
        (b"data: \xff\xfe\n\n", errors.ProtocolError, "UTF-8"),
        (b"data: [DONE]\n\n", errors.UnavailableError, "after 1 tokens"),
        ({"error": {"message": "out of memory", "code": 500}}, errors.UnavailableError, "out of memory"),
        ({"error": {"message": "bad", "code": 400}}, errors.ProtocolError, "bad"),
        ({"choices": [{"index": 0, "token_ids": [5, 1000]}]}, errors.ProtocolError, "vocabulary of 1000"),
        ({"choices": [{"index": 0, "token_ids": [-1]}]}, errors.ProtocolError, "no list of token ids"),
        ({"choices": [{"index": 0, "token_ids": ["7"]}]}, errors.ProtocolError, "no list of token ids"),
        ({"choices": [{"index": 1, "token_ids": [5]}]}, errors.ProtocolError, "index 0"),
        ({"id": "1"}, errors.ProtocolError, "index 0"),
        (
            {"choices": [{"index": 0, "token_ids": [], "finish_reason": "abort"}]},
            errors.UnavailableError,
            "gave the answer up: abort",
        ),
        (
            {"choices": [{"index": 0, "token_ids": [], "finish_reason": "content_filter"}]},
            errors.ProtocolError,
            "finish_reason 'content_filter'",
        ),
        ({"error": {"message": "longer than the model's context length"}}, errors.PromptTooLong, "context length"),
        (
            {"choices": [{"index": 0, "token_ids": [], "finish_reason": "length"}]},
            errors.UnavailableError,
            "cut the answer after 1 of 10",
        ),
        (
            {"choices": [{"index": 0, "token_ids": [], "finish_reason": "stop"}]},
            errors.UnavailableError,
            "end of text that was to be ignored",
        ),
    ],
)
async def test_garbage_in_a_stream_ends_it_by_name(
    event: dict[str, Any] | bytes, kind: type[errors.MillinerError], words: str
) -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.before[1] = event
        stream = await cloud.open(wanted(10))
        found: list[Any] = []
        with pytest.raises(kind, match=words):
            await toy_tokens.follow(stream, found)
        assert found[0].step.token.token_id == 101
        stand_in.before.clear()
        assert await toy_tokens.the_rest(await cloud.open(wanted(2))) == [101, 102], "the next answer is whole"


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ({"message": "no memory", "status_code": 500}, errors.UnavailableError),
        ({"message": "no memory", "status_code": None}, errors.UnavailableError),
        ({"message": "The request queue is full.", "status_code": 503}, errors.CapacityError),
        ({"message": "too many of this key", "status_code": 429}, errors.CapacityError),
        ({"message": "Input is longer than the context length", "status_code": 400}, errors.PromptTooLong),
        ({}, errors.UnavailableError),
    ],
)
async def test_sglang_gives_an_answer_up_by_name(reason: dict[str, Any], kind: type[errors.MillinerError]) -> None:
    stand_in = StandIn(Speaks.SGLANG)
    async with connected(stand_in) as cloud:
        await cloud.find()
        told = {"type": "abort", **reason}
        stand_in.before[0] = {"output_ids": [], "meta_info": {"completion_tokens": 0, "finish_reason": told}}
        stream = await cloud.open(wanted())
        with pytest.raises(kind, match=reason.get("message", "gave the answer up")):
            await stream.receive()


async def test_sglang_that_counts_wrong_is_not_believed() -> None:
    stand_in = StandIn(Speaks.SGLANG)
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.before[1] = {"output_ids": [101], "meta_info": {"completion_tokens": 3, "finish_reason": None}}
        stream = await cloud.open(wanted())
        await stream.receive()
        with pytest.raises(errors.ProtocolError, match="1 output_ids where 2 of 3"):
            await stream.receive()


async def test_a_slow_server_that_lives_is_waited_for_and_then_given_up() -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in, timeouts=IMPATIENT) as cloud:
        await cloud.find()
        stand_in.gate.clear()
        stream = await cloud.open(wanted())
        with pytest.raises(errors.DeadlineExceeded, match="silent"):
            await stream.receive()


async def test_a_server_that_answers_nothing_any_more_is_given_up_for_that() -> None:
    stand_in = StandIn(Speaks.VLLM)
    patient = servers.Timeouts(look_s=0.2, quiet_s=0.1, busy_s=3600.0)
    async with connected(stand_in, timeouts=patient) as cloud:
        await cloud.find()
        stand_in.gate.clear()
        stream = await cloud.open(wanted())
        stand_in.answers_looks.clear()
        with pytest.raises(errors.DeadlineExceeded, match=r"silent for 0\.2 s"):
            await stream.receive()
        stand_in.answers_looks.set()


async def test_a_token_that_comes_while_the_server_is_looked_at_is_not_held_up() -> None:
    stand_in = StandIn(Speaks.VLLM)
    patient = servers.Timeouts(look_s=3600.0, quiet_s=0.01, busy_s=3600.0)
    async with connected(stand_in, timeouts=patient) as cloud:
        await cloud.find()
        stand_in.gate.clear()
        stand_in.answers_looks.clear()
        stream = await cloud.open(wanted(2))
        await asyncio.sleep(0.1)  # long enough that it is looked at; if it is not, nothing is held up either
        stand_in.gate.set()
        assert await toy_tokens.the_rest(stream) == [101, 102]
        stand_in.answers_looks.set()


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cloud = transport.ExternalTransport(
        role_config.ExternalServer(url=f"http://127.0.0.1:{port}/v1"), tokenizer=TOKENIZER
    )
    with pytest.raises(errors.UnavailableError, match="ConnectError"):
        await cloud.open(wanted())
    assert "ConnectError" in await cloud.why_unreachable()
    stand_in = StandIn(Speaks.VLLM)
    async with engine_stand_in.serving(stand_in, port=port):
        assert await cloud.why_unreachable() == ""
        assert await toy_tokens.the_rest(await cloud.open(wanted(2))) == [101, 102]
    await cloud.close()


@pytest.mark.parametrize("model", [None, "other"])
async def test_another_model_is_named_with_what_there_is(model: str | None) -> None:
    stand_in = StandIn(Speaks.VLLM)
    stand_in.models = ["small", "large"]
    async with connected(stand_in, model=model) as cloud:
        with pytest.raises(errors.DigestMismatch, match="small, large") as refused:
            await cloud.open(wanted())
        assert refused.value.field == "cloud.engine.external.model"
        assert "small, large" in await cloud.why_unreachable()


async def test_one_of_several_models_is_asked_for_by_name() -> None:
    stand_in = StandIn(Speaks.VLLM)
    stand_in.models = ["small", "large"]
    async with connected(stand_in, model="large") as cloud:
        await cloud.open(wanted())
    assert {body.model for body in stand_in.bodies} == {"large"}


async def test_another_tokenizer_is_found_by_its_tokens() -> None:
    stand_in = StandIn(Speaks.VLLM)
    stand_in.tokenized = [7, 5, 4]
    async with connected(stand_in) as cloud:
        with pytest.raises(errors.DigestMismatch, match="another tokenizer"):
            await cloud.open(wanted())


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_another_tokenizer_is_found_by_its_text(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    stand_in.can_tokenize = False
    async with connected(stand_in) as cloud:
        await cloud.find()
    stand_in.letters = "ABCDEFGHIJ"
    async with connected(stand_in) as cloud:
        with pytest.raises(errors.DigestMismatch, match="another tokenizer"):
            await cloud.find()


async def test_a_larger_vocabulary_is_another_tokenizer() -> None:
    stand_in = StandIn(Speaks.VLLM)
    stand_in.before[0] = {"choices": [{"index": 0, "token_ids": [5000], "text": "x", "finish_reason": "stop"}]}
    async with connected(stand_in) as cloud:
        with pytest.raises(errors.DigestMismatch, match="5000"):
            await cloud.find()


async def test_a_server_that_speaks_only_text_is_refused_with_what_it_did() -> None:
    async with connected(StandIn(Speaks.TEXT)) as cloud:
        with pytest.raises(errors.ProtocolError, match="takes no token ids or gives none back") as refused:
            await cloud.open(wanted())
        assert refused.value.field == "cloud.engine.external.url"


async def test_a_server_that_comes_back_as_another_is_looked_at_again() -> None:
    stand_in = StandIn(Speaks.VLLM)
    async with connected(stand_in) as cloud:
        await toy_tokens.the_rest(await cloud.open(wanted(2)))
        stand_in.models = ["new"]
        with pytest.raises(errors.DigestMismatch):
            await cloud.open(wanted())
        assert await toy_tokens.the_rest(await cloud.open(wanted(2))) == [101, 102], "its only model is taken"


async def test_another_model_is_noticed_before_it_is_asked() -> None:
    stand_in = StandIn(Speaks.LLAMA_CPP)  # which takes any name for the model that it has
    async with connected(stand_in) as cloud:
        await cloud.find()
        stand_in.models, stand_in.letters = ["new"], "ABCDEFGHIJ"
        assert "serves new, not toy" in await cloud.why_unreachable()
        stand_in.can_tokenize = False
        assert "another tokenizer" in await cloud.why_unreachable()


@pytest.mark.parametrize("speaks", DIALECTS)
async def test_another_model_of_the_same_name_is_looked_at_anew(speaks: Speaks) -> None:
    stand_in = StandIn(speaks)
    stand_in.can_tokenize = False
    async with connected(stand_in) as cloud:
        await cloud.find()
        asked = len(stand_in.headers)
        assert await cloud.why_unreachable() == ""
        assert len(stand_in.headers) == asked, "nothing is asked of one that stays what it is"
        stand_in.max_positions = 300
        assert await cloud.why_unreachable() == ""
        assert cloud.max_positions == 300
        stand_in.root, stand_in.letters = "/models/other", "ABCDEFGHIJ"
        assert "another tokenizer" in await cloud.why_unreachable()


@pytest.mark.parametrize("url", ["http://user:secret@host/v1", "http://host/v1?x=1", "http:///v1"])
def test_an_address_that_is_none_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(errors.ConfigError, match="no base URL") as refused:
        servers.HttpServer(role_config.ExternalServer(url=url))
    assert refused.value.field == "cloud.engine.external.url"


@pytest.mark.parametrize("key", [None, "", "two\nlines", "clé"])
def test_a_key_that_cannot_be_sent_is_refused_at_the_start(key: str | None, tmp_path: pathlib.Path) -> None:
    if key is not None:
        (tmp_path / "key").write_text(key)
    config = role_config.ExternalServer(url="http://host/v1", api_key_file=str(tmp_path / "key"))
    with pytest.raises(errors.ConfigError) as refused:
        servers.HttpServer(config)
    assert refused.value.field == "cloud.engine.external.apiKeySecretRef"


def test_events_may_be_cut_anywhere() -> None:
    told = [{"a": "é🎩"}, {"b": [1, 2]}]
    written = "".join(f": hi\r\nid: 1\r\ndata: {json.dumps(one, ensure_ascii=False)}\r\n\r\n" for one in told).encode()
    for size in range(1, len(written)):
        parser = events.EventParser()
        found = [data for start in range(0, len(written), size) for data in parser.feed(written[start : start + size])]
        assert [events.document(data) for data in found] == told


def test_an_event_without_end_is_refused() -> None:
    parser = events.EventParser()
    assert parser.feed(b"x" * events.MOST_EVENT_BYTES) == []
    with pytest.raises(errors.ProtocolError, match="bytes"):
        parser.feed(b"x")


@contextlib.asynccontextmanager
async def forwarded(target: str) -> AsyncIterator[str]:
    """The address of a listener that forwards to `target`."""
    host, _, port = target.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    listener = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with listener:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"


async def test_an_emulated_link_leads_to_the_server() -> None:
    stand_in = StandIn(Speaks.LLAMA_CPP)
    asked: list[str] = []
    async with engine_stand_in.serving(stand_in) as url:
        target = url.removeprefix("http://").removesuffix("/v1")
        async with forwarded(target) as dial:

            class Link:
                async def open(self, wanted_target: str) -> str:
                    asked.append(wanted_target)
                    return dial

            cloud = transport.ExternalTransport(role_config.ExternalServer(url=url), tokenizer=TOKENIZER, route=Link())
            assert await toy_tokens.the_rest(await cloud.open(wanted(3))) == [101, 102, 103]
            await cloud.close()
    assert asked == [target]
    assert stand_in.headers[-1]["host"] == target
