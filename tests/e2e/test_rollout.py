"""A cloud rollout under load: requests in flight while the old replica leaves finish with the right tokens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent import futures

import httpx
import pytest
from tests.chart import charts, kubectl
from tests.e2e import topologies, unsplit

PROMPTS = ("def main(argv):\n", "import asyncio\n\n\nclass ")
MAX_TOKENS = 120  # some seconds each, so that every moment of the rollout has requests in flight


def ask_until(done: threading.Event, client: httpx.Client, prompt: str) -> list[list[int]]:
    """All answers to a prompt, asked again and again; the last was in flight when `done` was set."""
    found = []
    while not done.is_set():
        found.append(topologies.completion(client, prompt, max_tokens=MAX_TOKENS))
    return found


@pytest.fixture(scope="module")
def expected() -> Sequence[list[int]]:
    return unsplit.answers(PROMPTS, max_tokens=MAX_TOKENS)


def test_requests_in_flight_survive_a_cloud_rollout(chat: charts.Document, expected: Sequence[list[int]]) -> None:
    namespace = chat["metadata"]["namespace"]
    (old,) = topologies.names("chat", "cloud", namespace=namespace)
    devices = topologies.names("chat", "device", namespace=namespace)
    done = threading.Event()
    with topologies.device("chat", namespace=namespace) as client, futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask_until, done, client, prompt) for prompt in PROMPTS]
        try:
            chat["spec"]["cloud"]["engine"]["maxSessions"] = 8
            kubectl.apply([chat])
            topologies.wait_condition("chat", "CloudReady", "False", namespace=namespace)
            topologies.wait_ready("chat", namespace=namespace)
            gone = ("wait", "--for=delete", f"pod/{old}", "--namespace", namespace, "--timeout=50s")
            kubectl.run(*gone)
        finally:
            done.set()
        answers = [each.result() for each in asking]
    assert old not in topologies.names("chat", "cloud", namespace=namespace)
    assert topologies.names("chat", "device", namespace=namespace) == devices
    for theirs, ours in zip(expected, answers, strict=True):
        assert len(ours) > 1
        assert [each[: len(theirs)] for each in ours] == [theirs] * len(ours)
