"""What an answer carries beside its text when asked: token ids, log-probabilities, echo, where the time went."""

from __future__ import annotations

from milliner.telemetry import summary_json

from . import conftest as toys
from .conftest import Served


async def test_token_ids_come_back_on_request(served: Served) -> None:
    body = (await served.complete(return_token_ids=True)).json()
    assert bytes(body["choices"][0]["token_ids"]).decode() == toys.ANSWER
    assert body["choices"][0]["prompt_token_ids"] == [115, 97, 121]
    chunks = toys.events(await served.chat(return_token_ids=True, stream=True))
    ids = [token_id for chunk in chunks for token_id in chunk["choices"][0].get("token_ids", [])]
    assert bytes(ids).decode() == toys.ANSWER
    assert bytes(chunks[0]["prompt_token_ids"]) == b"<user>say"


async def test_logprobs_of_chat(served: Served) -> None:
    body = (await served.chat(logprobs=True, top_logprobs=2)).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == list(toys.ANSWER)
    assert content[0]["logprob"] == -0.5
    assert content[0]["bytes"] == [72]
    assert [entry["token"] for entry in content[0]["top_logprobs"]] == ["H", "z"]
    chunks = toys.events(await served.chat(logprobs=True, stream=True))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry["token"] for part in parts if part for entry in part["content"]] == list(toys.ANSWER)


async def test_logprobs_of_completions(served: Served) -> None:
    logprobs = (await served.complete(logprobs=1)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == list(toys.ANSWER)
    assert logprobs["token_logprobs"] == [-0.5] * 12
    assert logprobs["top_logprobs"][0] == {"H": -0.5}
    assert logprobs["text_offset"] == list(range(12))
    chunks = toys.events(await served.complete(logprobs=1, stream=True))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [offset for part in parts if part for offset in part["text_offset"]] == list(range(12))


async def test_echo(served: Served) -> None:
    assert (await served.complete(echo=True)).json()["choices"][0]["text"] == "say" + toys.ANSWER
    chunks = toys.events(await served.complete(echo=True, stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "say" + toys.ANSWER


async def test_an_answer_explains_itself_on_request(served: Served) -> None:
    body = (await served.chat(milliner={"explain": True})).json()
    block = body["milliner"]
    assert (block["topology"], block["strategy"]) == ("chat", "Hat")
    (choice,) = block["choices"]
    assert [token["origin"] for token in choice["tokens"]] == ["prefill"] * 3 + ["draft"] * 9
    assert "".join(token["text"] for token in choice["tokens"]) == toys.ANSWER
    parsed = summary_json.parse(choice)
    assert parsed == served.summaries[0]
    assert parsed.counters["bytes_up"] == 40
    chunks = toys.events(await served.complete(milliner={"explain": True}, stream=True))
    origins = [token["origin"] for chunk in chunks for token in chunk["milliner"]["tokens"]]
    assert origins == ["prefill"] * 3 + ["draft"] * 9
    assert summary_json.parse(chunks[-1]["milliner"]) == served.summaries[1]
