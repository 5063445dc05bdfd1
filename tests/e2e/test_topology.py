"""The main job on real nodes: a Hat topology with emulated devices becomes Ready and answers like the unsplit model."""

from __future__ import annotations

from tests.chart import charts, kubectl
from tests.e2e import topologies, unsplit

PROMPTS = ("def main(argv):\n", "import asyncio\n\n\nclass ", "In the beginning ")
MAX_TOKENS = 48


def test_a_sample_becomes_ready_and_answers_as_the_unsplit_model(chat: charts.Document) -> None:
    namespace = chat["metadata"]["namespace"]
    conditions = topologies.conditions("chat", namespace=namespace)
    assert conditions["StreamReady"][0] == "True"
    with topologies.device("chat", namespace=namespace) as client:
        answers = [topologies.completion(client, prompt, max_tokens=MAX_TOKENS) for prompt in PROMPTS]
    expected = unsplit.answers(PROMPTS, max_tokens=MAX_TOKENS)
    assert [ours[: len(theirs)] for ours, theirs in zip(answers, expected, strict=True)] == expected
    status = kubectl.get("itopo", "chat", namespace=namespace)["status"]
    assert status["probe"]["roundTripMicroseconds"] > 20_000  # the link's round trip alone
