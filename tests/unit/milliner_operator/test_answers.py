"""Answers of servers that a topology's author has chosen: bounded in size and time, refused where they are none."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from milliner_operator import answers, api, errors, kinds, settings

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def server(answer: Answer) -> Iterator[api.KubernetesApi]:
    """A client of a server that answers every request so."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # the client has had enough
                answer(self)

        def log_message(self, *_: Any) -> None:
            return

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    client = api.KubernetesApi.of_kubeconfig(kubeconfig(f"http://127.0.0.1:{served.server_port}"), told=lambda *_: None)
    try:
        yield client
    finally:
        client.close()
        served.shutdown()
        served.server_close()
        thread.join(timeout=10)


def kubeconfig(url: str, **cluster: str) -> str:
    return yaml.safe_dump(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": url, **cluster}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
    )


def saying(status: int, body: str) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    return answer


@pytest.mark.parametrize(
    "body",
    ["<html>welcome</html>", "[]", '{"items": 3}', '{"items": [3]}', '{"items": [{"metadata": {}}]}', "[" * 100_000],
)
async def test_what_is_no_list_of_objects_is_refused(body: str) -> None:
    """A page of HTML with status 200 ended the pass of the whole topology."""
    with server(saying(200, body)) as client, pytest.raises(errors.Refused, match="no API server"):
        await client.list(kinds.SECRET, "default")


async def test_a_refusal_is_told_only_in_the_words_of_a_status() -> None:
    with server(saying(403, "token: hunter2")) as client:
        with pytest.raises(errors.Forbidden) as told:
            await client.list(kinds.SECRET, "default")
        assert "hunter2" not in told.value.message
    status = {"kind": "Status", "message": "no" * 1000}
    with server(saying(403, json.dumps(status))) as client:
        with pytest.raises(errors.Forbidden) as told:
            await client.list(kinds.SECRET, "default")
        assert told.value.message.startswith("nono") and len(told.value.message) == 500


async def test_a_pod_that_answers_without_end_is_left() -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 4096)

    with server(answer) as client, pytest.raises(errors.Refused, match="more than 65536 bytes"):
        await client.proxy_pod("default", "p", port=1, path="/probe", timeout_s=5.0)


async def test_an_answer_that_comes_drop_by_drop_has_the_deadline_of_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_CONNECT_S", 0.2)

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    with server(answer) as client, pytest.raises(errors.Unreachable, match="did not end in time"):
        await client.proxy_pod("default", "p", port=1, path="/probe", timeout_s=0.2)
    assert time.monotonic() - started < 4.0


async def test_waiting_for_a_thread_is_not_the_servers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many calls of a busy operator: the last had waited for its turn for longer than any may take."""
    monkeypatch.setattr(api, "_THREADS", 1)
    monkeypatch.setattr(api, "_REQUEST_S", 0.2)
    monkeypatch.setattr(api, "_CONNECT_S", 0.2)

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        time.sleep(0.1)
        saying(200, '{"items": []}')(handler)

    with server(answer) as client:
        assert await asyncio.gather(*(client.list(kinds.SECRET, "default") for _ in range(10))) == [[]] * 10


@pytest.mark.parametrize(
    ("url", "more", "words"),
    [
        ("https://one.edge.example:6443", {}, ""),
        ("https://10.0.0.7", {}, ""),
        ("https://edge.example.attacker.example", {}, "which is none of MILLINER_REMOTE_SERVERS"),
        ("https://169.254.169.254", {}, "which is none of MILLINER_REMOTE_SERVERS"),
        ("https://one.edge.example", {"proxy-url": "http://attacker.example"}, "proxy-url"),
    ],
)
def test_who_may_be_called_can_be_limited(url: str, more: dict[str, str], words: str) -> None:
    text = kubeconfig(url, **more)
    api.KubernetesApi.of_kubeconfig(text, told=lambda *_: None).close()
    servers = ("*.edge.example", "10.0.0.7")
    if words:
        with pytest.raises(ValueError, match=words):
            api.KubernetesApi.of_kubeconfig(text, told=lambda *_: None, servers=servers)
    else:
        api.KubernetesApi.of_kubeconfig(text, told=lambda *_: None, servers=servers).close()


def test_the_setting_lists_hosts() -> None:
    found = settings.read({"MILLINER_REMOTE_SERVERS": "*.edge.example, 10.0.0.7"})
    assert found.remote_servers == ("*.edge.example", "10.0.0.7")
    assert settings.read({}).remote_servers == ()


def test_a_document_of_nothing_but_brackets_is_none() -> None:
    assert "without a Status" in answers.refusal(b"[" * 1_000_000)
