"""Whether Ready tells the truth: again and again it is read, and a request goes out to the devices' Service at once.

A request that goes out while Ready is True has to be answered, but for the first of a fault: nobody can say what nobody
has noticed. docs/operations.md says how soon it is told, and what bounds that.
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

NOTICED_S = 20.0  # twice what docs/operations.md says: kubelets and probes share a test's machine with all the rest
PERIOD_S = 0.5
# Longer than a device waits for a cloud that is away, so that what fails says why and what is slow is no failure.
_ANSWER_S = 60.0
_UNREADY_S = 3.0  # whether a request is answered while Ready is not True is only counted
_AT_ONCE = 3  # little work, or a busy machine would do nothing else
_TOKENS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """Ready as it was read at `at_s` (monotonic), and what became of the request that went out then."""

    at_s: float
    ready: str
    reason: str
    since: str  # lastTransitionTime
    failure: str = ""  # empty: answered, or none went out because some are under way
    asked: bool = True


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
        is_ready = each.ready == "True"
        if is_ready and not each.failure:
            continue
        if is_ready:
            first = first or each
        if first is not None and not told:
            noticed_s = each.at_s - first.at_s
        told = told or not is_ready
        if is_ready and (told or noticed_s > within_s):
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
        """One sample each `PERIOD_S` until `done` is set; with a request while fewer than `_AT_ONCE` are under way."""
        samples: list[Sample] = []
        asking: list[futures.Future[Sample]] = []
        with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            while not done.wait(PERIOD_S):
                sample = self._read()
                if sum(not each.done() for each in asking) < _AT_ONCE:
                    asking.append(pool.submit(self._ask, sample))
                else:
                    samples.append(dataclasses.replace(sample, asked=False))
        return samples + [each.result() for each in asking]

    def _read(self) -> Sample:
        answer = self._client.get(self._topology)
        at_s, found = time.monotonic(), answer.raise_for_status().json()["status"]["conditions"]
        ready = next(each for each in found if each["type"] == "Ready")
        return Sample(at_s, ready["status"], ready["reason"], ready["lastTransitionTime"])

    def _ask(self, sample: Sample) -> Sample:
        body = {"model": "demo", "prompt": "def main(argv):\n", "max_tokens": _TOKENS, "temperature": 0}
        within_s = _ANSWER_S if sample.ready == "True" else _UNREADY_S
        try:
            answer = self._client.post(self._completions, json=body, timeout=within_s)
        except httpx.HTTPError as error:
            return dataclasses.replace(sample, failure=repr(error))
        failure = "" if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"
        return dataclasses.replace(sample, failure=failure)


@contextlib.contextmanager
def watching(namespace: str, *, told: list[str], fault: str) -> Iterator[None]:
    """Watches meanwhile; AssertionError afterwards where Ready was wrong. `told` hears how it went."""
    done = threading.Event()
    with (
        proxy.running() as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_ANSWER_S) as client,
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
    true, asked = sum(each.ready == "True" for each in samples), sum(each.asked for each in samples)
    failed = sum(bool(each.failure) for each in samples)
    return f"Ready True at {true} of {len(samples)} looks, {failed} of {asked} requests failed"
