"""Whether Ready tells the truth: again and again it is read, and a request goes out to the devices' Service at once.

A request that goes out while Ready is True has to be answered, but for the first of a fault: nobody can say what nobody
has noticed. That they were told of within `NOTICED_S` is what docs/operations.md promises and what bounds it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures

import httpx
from tests.e2e import proxy, topologies

NOTICED_S = 10.0
ANSWER_S = 10.0  # arbitrary: an answer of a few tokens that takes longer is none
PERIOD_S = 0.5  # requests of a few tokens are little work; what fails takes its time, so that several are under way
_AT_ONCE = 24  # those of `ANSWER_S`, and a few in reserve
_TOKENS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """Ready as it was read at `at_s` (monotonic), and what became of the request that went out then."""

    at_s: float
    ready: str
    reason: str
    since: str  # lastTransitionTime
    failure: str  # empty: answered


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """How long Ready was True over failing requests before it was told, and samples that were wrong all the same."""

    noticed_s: float
    wrong: tuple[Sample, ...]


def judge(samples: Iterable[Sample], *, within_s: float = NOTICED_S) -> Verdict:
    """Once Ready has been anything but True, it may not be True over a request that fails; until then for `within_s`
    after the first such request. Of one fault."""
    first: Sample | None = None
    told, noticed_s = False, 0.0
    wrong = []
    for each in sorted(samples, key=lambda sample: sample.at_s):
        if first is not None and not told:
            noticed_s = each.at_s - first.at_s
        if each.ready != "True":
            told = True
        elif each.failure:
            first = first or each
            if told or noticed_s > within_s:
                wrong.append(each)
    return Verdict(noticed_s, tuple(wrong))


class Watch:
    """Samples of the topology `chat`, from a thread of its own on."""

    def __init__(self, client: httpx.Client, *, namespace: str) -> None:
        self._client = client
        self._topology = f"/apis/milliner.dev/v1alpha1/namespaces/{namespace}/inferencetopologies/chat"
        service = f"/api/v1/namespaces/{namespace}/services/chat-device-emulated:8080"
        self._completions = f"{service}/proxy/v1/completions"

    def run(self, done: threading.Event) -> list[Sample]:
        """One sample each `PERIOD_S` until `done` is set."""
        with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            samples: list[futures.Future[Sample]] = []
            while not done.wait(PERIOD_S):
                if sum(not each.done() for each in samples) < _AT_ONCE:  # it must go out at once
                    samples.append(pool.submit(self._sample))
        return [each.result() for each in samples]

    def _sample(self) -> Sample:
        answer = self._client.get(self._topology)
        at_s, found = time.monotonic(), answer.raise_for_status().json()["status"]["conditions"]
        ready = next(each for each in found if each["type"] == "Ready")
        return Sample(at_s, ready["status"], ready["reason"], ready["lastTransitionTime"], self._failure())

    def _failure(self) -> str:
        """What a request came to; empty when it was answered."""
        body = {"model": "demo", "prompt": "def main(argv):\n", "max_tokens": _TOKENS, "temperature": 0}
        try:
            answer = self._client.post(self._completions, json=body, timeout=ANSWER_S)
        except httpx.HTTPError as error:
            return repr(error)
        return "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"


@contextlib.contextmanager
def watching(namespace: str, *, told: list[str], fault: str) -> Iterator[None]:
    """Watches meanwhile; AssertionError afterwards where Ready was wrong. `told` hears how it went."""
    done = threading.Event()
    with (
        proxy.running() as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_S) as client,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        sampling = pool.submit(Watch(client, namespace=namespace).run, done)
        try:
            yield
        finally:
            done.set()
        samples = sampling.result()
    verdict = judge(samples)
    told.append(f"{fault}: {_words(samples)}; Ready was True over failing requests for {verdict.noticed_s:.1f} s")
    if verdict.wrong:
        said = topologies.diagnosis("chat", namespace=namespace)
        raise AssertionError(f"{told[-1]}\nwrong: {verdict.wrong}\nof {samples}\n{said}")
    assert samples, "nothing was watched"


def _words(samples: Sequence[Sample]) -> str:
    failed, ready = sum(bool(each.failure) for each in samples), sum(each.ready == "True" for each in samples)
    return f"{len(samples)} requests, {failed} failed, Ready True at {ready}"
