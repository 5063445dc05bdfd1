"""The main job on real nodes: a Hat topology with emulated devices becomes Ready and answers like the unsplit model."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chart import kubectl
from tests.e2e import topologies

PROMPTS = ("def main(argv):\n", "import asyncio\n\n\nclass ", "In the beginning ")
MAX_TOKENS = 48


@pytest.fixture(scope="module")
def unsplit() -> list[list[int]]:
    """Greedy answers of the whole model by transformers, in float32."""
    import torch
    import transformers

    from milliner.demo import assets

    folder = str(assets.model_dir())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        whole = model.generate(ids, max_new_tokens=MAX_TOKENS, do_sample=False)
        answers.append(whole[0, ids.shape[1] :].tolist())
    return answers


def test_a_sample_becomes_ready_and_answers_as_the_unsplit_model(namespace: str, unsplit: list[list[int]]) -> None:
    kubectl.apply([topologies.sample("hat-emulated.yaml", namespace=namespace)])
    topologies.wait_ready("chat", namespace=namespace)
    conditions = topologies.conditions("chat", namespace=namespace)
    assert conditions["StreamReady"][0] == "True"
    with topologies.device("chat", namespace=namespace) as client:
        answers = [topologies.completion(client, prompt, max_tokens=MAX_TOKENS) for prompt in PROMPTS]
    assert [ours[: len(theirs)] for ours, theirs in zip(answers, unsplit, strict=True)] == unsplit
    status = kubectl.get("itopo", "chat", namespace=namespace)["status"]
    assert status["probe"]["roundTripMicroseconds"] > 20_000  # the link's round trip alone
    kubectl.run("delete", "itopo", "chat", "--namespace", namespace)
