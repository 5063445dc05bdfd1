"""A streamed answer that is read while something happens to the cloud."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent import futures

import httpx

STREAM_S = 150.0  # the longest that one answer may take here, a lost replica included


class Stream:
    """A greedy answer on its way; `wait_begun` returns once some of it has come, `tokens` when all has."""

    def __init__(self, client: httpx.Client, prompt: str, *, max_tokens: int, pool: futures.Executor) -> None:
        self._client = client
        self._body = {
            "model": "demo",
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "return_token_ids": True,
        }
        self._begun = threading.Event()
        self._tokens: list[int] = []
        self._reading = pool.submit(self._read)

    def wait_begun(self) -> None:
        """AssertionError if nothing comes, or what the answer failed with."""
        if not self._begun.wait(STREAM_S):
            raise AssertionError("the answer has not begun")
        if self._reading.done():
            self._reading.result()

    @property
    def done(self) -> bool:
        return self._reading.done()

    def tokens(self) -> list[int]:
        """All token ids; AssertionError when the answer ended with an error."""
        return self._reading.result(STREAM_S)

    def _read(self) -> list[int]:
        try:
            with self._client.stream("POST", "/v1/completions", json=self._body, timeout=STREAM_S) as answer:
                assert answer.status_code == 200, answer.read()
                ended = self._read_events(answer.iter_lines())
        finally:
            self._begun.set()
        assert ended, "the stream ended without [DONE]"
        return self._tokens

    def _read_events(self, lines: Iterator[str]) -> bool:
        for line in lines:
            content = line.removeprefix("data:").strip()
            if content == "[DONE]":
                return True
            if not content or not line.startswith("data:"):
                continue
            event = json.loads(content)
            assert "error" not in event, event
            for choice in event["choices"]:
                self._tokens += choice.get("token_ids") or ()
            if self._tokens:
                self._begun.set()
        return False


@contextlib.contextmanager
def streaming(client: httpx.Client, prompt: str, *, max_tokens: int) -> Iterator[Stream]:
    """An answer that has begun."""
    with futures.ThreadPoolExecutor(1) as pool:
        stream = Stream(client, prompt, max_tokens=max_tokens, pool=pool)
        stream.wait_begun()
        yield stream
