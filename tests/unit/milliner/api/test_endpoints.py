"""What aiperf, guidellm, inference-perf and the openai client exercise, over ASGI."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from milliner.core import errors, types
from milliner.telemetry import summary_json

from . import conftest as toys
from .conftest import Served

ANSWER = "Hello, world"


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The stream's events; checks framing and that `[DONE]` comes last."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = response.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def test_a_chat_answer(served: Served) -> None:
    response = await served.chat()
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "toy"
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": ANSWER, "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    assert "milliner" not in body
    assert response.headers["x-milliner-strategy"] == "Hat"
    assert response.headers["x-milliner-topology"] == "chat"


async def test_a_chat_stream(served: Served) -> None:
    chunks = events(await served.chat(stream=True, stream_options={"include_usage": True}))
    *content, last = chunks
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert content[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in content) == ANSWER
    assert [chunk["choices"][0]["finish_reason"] for chunk in content] == [None] * 5 + ["stop"]
    assert all(chunk["usage"] is None for chunk in content)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}


async def test_usage_is_absent_unless_asked_for_and_continuous_on_request(served: Served) -> None:
    assert all("usage" not in chunk for chunk in events(await served.chat(stream=True)))
    chunks = events(await served.complete(stream=True, stream_options={"continuous_usage_stats": True}))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [3, 6, 9, 12, 12]


async def test_a_completion_of_text_and_of_token_ids(served: Served) -> None:
    for prompt in ("say", [115, 97, 121]):
        body = (await served.complete(prompt=prompt)).json()
        assert body["object"] == "text_completion"
        assert body["choices"][0]["text"] == ANSWER
    assert {request.prompt_ids for request in served.generator.requests} == {(115, 97, 121)}


async def test_several_prompts_and_choices(served: Served) -> None:
    response = await served.complete(prompt=["one", "three"], n=2, seed=7, temperature=1.0)
    body = response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"] == {"prompt_tokens": 8, "completion_tokens": 48, "total_tokens": 56}
    seeds = {(len(request.prompt_ids), request.sampling.seed) for request in served.generator.requests}
    assert seeds == {(3, 7), (3, 8), (5, 7), (5, 8)}
    assert served.generator.open == 0


async def test_several_choices_stream_side_by_side(served: Served) -> None:
    chunks = events(await served.chat(n=2, stream=True))
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == ANSWER
        assert mine[-1]["finish_reason"] == "stop"


async def test_token_ids_come_back_on_request(served: Served) -> None:
    body = (await served.complete(return_token_ids=True)).json()
    assert bytes(body["choices"][0]["token_ids"]).decode() == ANSWER
    assert body["choices"][0]["prompt_token_ids"] == [115, 97, 121]
    chunks = events(await served.chat(return_token_ids=True, stream=True))
    ids = [token_id for chunk in chunks for token_id in chunk["choices"][0].get("token_ids", [])]
    assert bytes(ids).decode() == ANSWER
    assert bytes(chunks[0]["prompt_token_ids"]) == b"<user>say"


async def test_sampling_parameters_reach_the_strategy(served: Served) -> None:
    await served.complete(temperature=0.7, top_p=0.9, top_k=40, seed=3, max_tokens=5, stop_token_ids=[33])
    await served.chat(max_completion_tokens=4, top_k=-1, ignore_eos=True)
    first, second = served.generator.requests
    assert first.sampling == types.SamplingParams(temperature=0.7, top_p=0.9, top_k=40, seed=3)
    assert (first.max_new_tokens, first.stop_token_ids) == (5, frozenset({33, 256}))
    assert second.sampling == types.SamplingParams(temperature=1.0)  # OpenAI's defaults
    assert (second.max_new_tokens, second.stop_token_ids) == (4, frozenset())


async def test_limits_of_length(served: Served) -> None:
    assert (await served.complete(max_tokens=5)).json()["choices"][0] == {
        "index": 0,
        "text": "Hello",
        "logprobs": None,
        "finish_reason": "length",
    }
    await served.post("/v1/completions", prompt="say")
    await served.chat()
    assert [request.max_new_tokens for request in served.generator.requests] == [5, 16, 400 - 9]


@pytest.mark.parametrize(
    ("stop", "text", "completion_tokens"),
    [
        (["o, w"], "Hell", 8),  # spans three rounds
        ("Hello, world!", ANSWER, 12),  # begins, never ends: held back, then shown
        (["world", "lo"], "Hel", 5),
        ([], ANSWER, 12),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_strings(served: Served, stop: Any, text: str, completion_tokens: int, stream: bool) -> None:
    response = await served.complete(
        stop=stop, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})
    )
    if stream:
        *chunks, last = events(response)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text
        body = {"choices": [chunks[-1]["choices"][0]], "usage": last["usage"]}
    else:
        body = response.json()
        assert body["choices"][0]["text"] == text
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] == completion_tokens
    assert (served.generator.open, served.generator.closed) == (0, 1)


async def test_characters_are_never_cut(served: Served) -> None:
    served.generator.answer, served.generator.per_round = "naïve 🎩 帽子", 1
    chunks = events(await served.complete(stream=True))
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == "naïve 🎩 帽子"
    assert "\ufffd" not in "".join(texts)
    assert "🎩" in texts
    explained = (await served.complete(milliner={"explain": True})).json()["milliner"]["choices"][0]["tokens"]
    assert (
        b"".join(bytes(token.get("bytes", token["text"].encode())) for token in explained).decode() == "naïve 🎩 帽子"
    )
    cut = (await served.complete(max_tokens=9)).json()["choices"][0]["text"]  # in the middle of the hat
    assert cut.startswith("naïve \ufffd")


async def test_logprobs_of_chat(served: Served) -> None:
    body = (await served.chat(logprobs=True, top_logprobs=2)).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == list(ANSWER)
    assert content[0]["logprob"] == -0.5
    assert content[0]["bytes"] == [72]
    assert [entry["token"] for entry in content[0]["top_logprobs"]] == ["H", "z"]
    chunks = events(await served.chat(logprobs=True, stream=True))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry["token"] for part in parts if part for entry in part["content"]] == list(ANSWER)


async def test_logprobs_of_completions(served: Served) -> None:
    logprobs = (await served.complete(logprobs=1)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == list(ANSWER)
    assert logprobs["token_logprobs"] == [-0.5] * 12
    assert logprobs["top_logprobs"][0] == {"H": -0.5}
    assert logprobs["text_offset"] == list(range(12))
    chunks = events(await served.complete(logprobs=1, stream=True))
    parts = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [offset for part in parts if part for offset in part["text_offset"]] == list(range(12))


async def test_echo(served: Served) -> None:
    assert (await served.complete(echo=True)).json()["choices"][0]["text"] == "say" + ANSWER
    chunks = events(await served.complete(echo=True, stream=True))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "say" + ANSWER


async def test_an_answer_explains_itself_on_request(served: Served) -> None:
    body = (await served.chat(milliner={"explain": True})).json()
    block = body["milliner"]
    assert (block["topology"], block["strategy"]) == ("chat", "Hat")
    (choice,) = block["choices"]
    assert [token["origin"] for token in choice["tokens"]] == ["prefill"] * 3 + ["draft"] * 9
    assert "".join(token["text"] for token in choice["tokens"]) == ANSWER
    parsed = summary_json.parse(choice)
    assert parsed == served.summaries[0]
    assert parsed.counters["bytes_up"] == 40
    chunks = events(await served.complete(milliner={"explain": True}, stream=True))
    origins = [token["origin"] for chunk in chunks for token in chunk["milliner"]["tokens"]]
    assert origins == ["prefill"] * 3 + ["draft"] * 9
    assert summary_json.parse(chunks[-1]["milliner"]) == served.summaries[1]


async def test_unsupported_fields_at_neutral_values_and_null_are_accepted(served: Served) -> None:
    neutral = {
        "user": "me",
        "metadata": {"a": "b"},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "tools": [],
        "response_format": {"type": "text"},
        "best_of": None,
        "stop": None,
        "max_tokens": None,
        "n": None,
        "min_tokens": 3,
        "ignore_eos": True,
    }
    assert (await served.chat(**neutral, max_completion_tokens=3)).status_code == 200


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ONE = {"messages": [{"role": "user", "content": "say"}]}


@pytest.mark.parametrize(
    ("path", "body", "param", "status"),
    [
        (CHAT, {"model": "other", **ONE}, "model", 404),
        (CHAT, ONE, "model", 400),
        (CHAT, {"model": "toy"}, "messages", 400),
        (CHAT, {"model": "toy", "messages": []}, "messages", 400),
        (CHAT, {"model": "toy", "messages": [{"role": "king", "content": "x"}]}, "messages[0].role", 400),
        (CHAT, {"model": "toy", "messages": [{"role": "user", "content": "refuse"}]}, "messages", 400),
        (
            CHAT,
            {"model": "toy", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            400,
        ),
        (CHAT, {"model": "toy", **ONE, "tools": [{"type": "function"}]}, "tools", 400),
        (CHAT, {"model": "toy", **ONE, "response_format": {"type": "json_schema"}}, "response_format", 400),
        (CHAT, {"model": "toy", **ONE, "frequency_penalty": 0.5}, "frequency_penalty", 400),
        (CHAT, {"model": "toy", **ONE, "temprature": 0.5}, "temprature", 400),
        (CHAT, {"model": "toy", **ONE, "temperature": 3}, "temperature", 400),
        (CHAT, {"model": "toy", **ONE, "temperature": "hot"}, "temperature", 400),
        (CHAT, {"model": "toy", **ONE, "top_p": 0}, "top_p", 400),
        (CHAT, {"model": "toy", **ONE, "n": 0}, "n", 400),
        (CHAT, {"model": "toy", **ONE, "stop": ["a", "b", "c", "d", "e"]}, "stop", 400),
        (CHAT, {"model": "toy", **ONE, "stop": [""]}, "stop[0]", 400),
        (CHAT, {"model": "toy", **ONE, "max_tokens": 0}, "max_tokens", 400),
        (CHAT, {"model": "toy", **ONE, "max_tokens": 400}, "messages", 400),
        (CHAT, {"model": "toy", **ONE, "top_logprobs": 2}, "top_logprobs", 400),
        (CHAT, {"model": "toy", **ONE, "stream_options": {"include_usage": True}}, "stream_options", 400),
        (CHAT, {"model": "toy", **ONE, "milliner": {"explian": True}}, "milliner.explian", 400),
        (COMPLETIONS, {"model": "toy", "prompt": "x" * 500}, "prompt", 400),
        (COMPLETIONS, {"model": "toy", "prompt": ""}, "prompt", 400),
        (COMPLETIONS, {"model": "toy", "prompt": []}, "prompt", 400),
        (COMPLETIONS, {"model": "toy", "prompt": [257]}, "prompt", 400),
        (COMPLETIONS, {"model": "toy", "prompt": [-1]}, "prompt[0]", 400),
        (COMPLETIONS, {"model": "toy", "prompt": ["a"] * 9, "n": 2}, "n", 400),
        (COMPLETIONS, {"model": "toy", "prompt": "a", "echo": True, "logprobs": 1}, "echo", 400),
        (COMPLETIONS, {"model": "toy", "prompt": "a", "min_tokens": 3}, "min_tokens", 400),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_bad_requests_name_the_parameter(
    served: Served, path: str, body: dict[str, Any], param: str, status: int, stream: bool
) -> None:
    if stream and "stream_options" in body:
        body = {**body, "stream_options": {"include_everything": True}}
        param = "stream_options.include_everything"
    response = await served.client.post(path, json={**body, "stream": stream})
    error = response.json()["error"]
    assert response.status_code == status
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert served.generator.open == 0
    assert (await served.complete()).status_code == 200  # and others are served as before


async def test_what_is_not_a_request_gets_openais_shape_too(served: Served) -> None:
    post, get = served.client.post, served.client.get
    json_type = {"content-type": "application/json"}
    for response, status, code in (
        (await post(CHAT, content=b"{", headers=json_type), 400, "invalid_json"),
        (await post(CHAT, content=b"[" * 9000, headers=json_type), 400, "invalid_json"),
        (await post(CHAT, content=b"\xff", headers=json_type), 400, "invalid_json"),
        (await post(CHAT, json=[1]), 400, "invalid_json"),
        (await post(CHAT, data={"model": "toy"}), 415, "unsupported_media_type"),
        (await post(CHAT, json={"x": "y" * 10_000}), 413, "request_too_large"),
        (await get(CHAT), 405, "method_not_allowed"),
        (await get("/v2/anything"), 404, "not_found"),
        (await get("/v1/models/other"), 404, "model_not_found"),
    ):
        assert response.status_code == status, response.text
        assert response.json()["error"]["code"] == code
        assert response.headers["x-request-id"]


async def test_request_ids_are_echoed_when_harmless(served: Served) -> None:
    response = await served.client.get("/v1/models", headers={"x-request-id": "abc-1"})
    assert response.headers["x-request-id"] == "abc-1"
    odd = await served.client.get("/v1/models", headers={"x-request-id": "a b<script>"})
    assert odd.headers["x-request-id"] not in ("", "a b<script>")


async def test_models_health_readiness(served: Served) -> None:
    (card,) = (await served.client.get("/v1/models")).json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == ("toy", "model", 400)
    assert (await served.client.get("/v1/models/toy")).json() == card
    assert (await served.client.get("/readyz")).status_code == 200
    served.app.state.why_not_ready = "the cloud cannot be reached"
    unready = await served.client.get("/readyz")
    assert (unready.status_code, unready.json()["reason"]) == (503, "the cloud cannot be reached")
    refused = await served.chat()
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert "the cloud cannot be reached" in refused.json()["error"]["message"]
    assert (await served.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.TooManySessions("full", field="cloud", retry_after_s=2.5), 429, "rate_limit_error"),
        (errors.UnavailableError("gone"), 503, "service_unavailable_error"),
        (errors.DeadlineExceeded("late"), 504, "service_unavailable_error"),
        (errors.DigestMismatch("another model"), 502, "server_error"),
        (RuntimeError("secret prompt"), 500, "server_error"),
    ],
)
async def test_errors_before_the_first_token_have_their_status(
    served: Served, error: Exception, status: int, kind: str, stream: bool
) -> None:
    served.generator.error, served.generator.fail_at_round = error, 0
    response = await served.chat(stream=stream)
    assert response.status_code == status
    assert response.json()["error"]["type"] == kind
    assert "secret" not in response.text
    if status == 429:
        assert response.headers["retry-after"] == "3"
    assert served.summaries[0].error_type == type(error).__name__


async def test_an_error_in_mid_stream_is_an_event_and_ends_the_stream(served: Served) -> None:
    served.generator.fail_at_round = 2
    response = await served.chat(stream=True)
    *_, last, end = response.text.split("\n\n")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["code"], error["status"]) == ("cloud_unavailable", 503)
    assert end == ""
    assert "[DONE]" not in response.text
    assert (served.generator.open, served.summaries[0].error_type) == (0, "UnavailableError")


async def test_a_choice_that_fails_takes_its_siblings_along(served: Served) -> None:
    served.generator.fail_at_round = 1
    response = await served.chat(n=3)
    assert response.status_code == 503
    assert (served.generator.open, served.generator.closed) == (0, 3)


async def test_requests_beyond_the_limits_wait_or_are_refused(served: Served) -> None:
    served.generator.stall_at_round = 0
    async with asyncio.TaskGroup() as group:
        three = [group.create_task(served.complete()) for _ in range(3)]
        await toys.until(lambda: served.generator.open == 2)
        scraped = await scrape(served)
        assert 'milliner_num_requests_running{model_name="toy",strategy="Hat"} 2.0' in scraped
        assert 'milliner_num_requests_waiting{model_name="toy",strategy="Hat"} 1.0' in scraped
        refused = await served.complete()
        served.generator.release.set()
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert [task.result().status_code for task in three] == [200, 200, 200]
    assert served.generator.most_open == 2
    assert [one.error_type for one in served.summaries].count("CapacityError") == 1


async def scrape(served: Served) -> str:
    return (await served.client.get("/metrics")).text


async def test_metrics_count_what_was_served(served: Served) -> None:
    await served.complete()
    text = await scrape(served)
    assert 'milliner_generation_tokens_total{model_name="toy",strategy="Hat"} 12.0' in text
    assert 'milliner_kv_cache_usage_perc{model_name="toy",strategy="Hat"} 0.5' in text
    asked = await served.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert served.summaries[0].trace_id in asked.text


async def test_a_request_is_one_trace_and_joins_the_callers(served: Served) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    body = {"model": "toy", "prompt": "a secret", "max_tokens": 4}
    await served.client.post(COMPLETIONS, json=body, headers=headers)
    spans = served.traced.recent.spans(trace_id=trace_id)
    names = [span.name for span in spans]
    assert names.count("text_completion toy") == 1
    assert {"queue", "tokenize", "round prefill", "round verify", "cloud_forward"} <= set(names)
    assert "secret" not in "".join(span.to_json() for span in spans)


async def test_the_page_needs_nothing_from_elsewhere(served: Served) -> None:
    page = await served.client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
