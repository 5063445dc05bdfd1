"""What is answered with an error over ASGI: bad requests, failures before and amid an answer, overload."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from milliner.core import errors

from . import conftest as toys
from .conftest import Served

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
        (CHAT, {"model": "toy", **ONE, "stop_token_ids": [7] * 1025}, "stop_token_ids", 400),
        (CHAT, {"model": "toy", **ONE, "max_tokens": 0}, "max_tokens", 400),
        (CHAT, {"model": "toy", **ONE, "max_tokens": 400}, "max_tokens", 400),
        (CHAT, {"model": "toy", **ONE, "max_completion_tokens": 400}, "max_completion_tokens", 400),
        (COMPLETIONS, {"model": "toy", "prompt": "x", "max_tokens": 400}, "max_tokens", 400),
        (CHAT, {"model": "toy", **ONE, "cache_salt": ""}, "cache_salt", 400),
        (CHAT, {"model": "toy", **ONE, "cache_salt": 7}, "cache_salt", 400),
        (COMPLETIONS, {"model": "toy", "prompt": "x", "cache_salt": "s" * 1025}, "cache_salt", 400),
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


@pytest.mark.parametrize(
    ("unknown", "message"),
    [
        ({"temprature": 0.5}, "unknown field, did you mean temperature?"),
        ({"milliner": {"explian": True}}, "unknown field, did you mean milliner.explain?"),
        ({"zzz": 1}, "unknown field"),
    ],
)
async def test_a_misspelt_field_is_answered_with_the_one_that_was_meant(
    served: Served, unknown: dict[str, Any], message: str
) -> None:
    response = await served.client.post(CHAT, json={"model": "toy", **ONE, **unknown})
    assert response.json()["error"]["message"].endswith(message)


async def test_an_unknown_path_is_answered_with_those_that_exist(served: Served) -> None:
    message = (await served.client.post("/v1/responses", json={})).json()["error"]["message"]
    for path in ("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models/{model}", "GET /healthz"):
        assert path in message


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
        scraped = (await served.client.get("/metrics")).text
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
