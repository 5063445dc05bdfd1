"""A topology on real nodes as its user handles it: applied from a sample, waited for, asked through its device pods."""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import yaml
from tests.chart import charts, kubectl

SAMPLES = pathlib.Path(__file__).parents[2] / "manifests" / "samples"
READY_S = 120  # from `kubectl apply` to Ready=True, images being on the nodes
WAIT_S = 240  # for all else; arbitrary: far more than any takes, as a busy machine is no fault
ANSWER_S = 150.0
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


def sample(name: str, *, namespace: str, topology: str = "chat") -> charts.Document:
    """A sample from manifests/samples, in a namespace."""
    document: charts.Document = yaml.safe_load((SAMPLES / name).read_text(encoding="utf-8"))
    document["metadata"] |= {"namespace": namespace, "name": topology}
    return document


def small(*, namespace: str, **spec: Any) -> charts.Document:
    """The emulated sample with one device; `spec` replaces parts of its spec."""
    document = sample("hat-emulated.yaml", namespace=namespace)
    document["spec"]["devicePools"][0]["replicas"] = 1
    document["spec"] |= spec
    return document


def wait_ready(name: str, *, namespace: str, deadline_s: int = WAIT_S) -> None:
    """Returns when the topology is Ready; AssertionError with its status, pods and logs otherwise."""
    try:
        kubectl.run(
            *("wait", "--for=condition=Ready", f"itopo/{name}", "--namespace", namespace, f"--timeout={deadline_s}s"),
            deadline_s=deadline_s + kubectl.DEADLINE_S,
        )
    except kubectl.Refused as refused:
        raise AssertionError(f"{name} is not Ready: {refused}\n{diagnosis(name, namespace=namespace)}") from None


def wait_condition(name: str, kind: str, *expected: str, namespace: str, deadline_s: int = WAIT_S) -> None:
    """Returns when a condition has the status, and the reason if given; AssertionError naming what it was otherwise."""
    deadline = time.monotonic() + deadline_s
    while (found := conditions(name, namespace=namespace).get(kind, ("", "")))[: len(expected)] != expected:
        if time.monotonic() > deadline:
            said = diagnosis(name, namespace=namespace)
            raise AssertionError(f"{kind} of {name} is {found}, not {expected}, after {deadline_s} s\n{said}")
        time.sleep(0.3)


def conditions(name: str, *, namespace: str) -> dict[str, tuple[str, str]]:
    """Status and reason of each condition of the current generation."""
    found = kubectl.get("itopo", name, namespace=namespace)
    generation = found["metadata"]["generation"]
    return {
        each["type"]: (each["status"], each["reason"])
        for each in found.get("status", {}).get("conditions", ())
        if each.get("observedGeneration") == generation
    }


def condition(name: str, kind: str, *, namespace: str) -> dict[str, Any]:
    """One condition with its message; empty where there is none."""
    found = kubectl.get("itopo", name, namespace=namespace).get("status", {}).get("conditions", ())
    return next((dict(each) for each in found if each["type"] == kind), {})


def names(name: str, role: str, *, namespace: str, pool: str = "", kubeconfig: str = "") -> list[str]:
    """Names of a role's pods that are not ending."""
    found = pods(name, role, namespace=namespace, pool=pool, kubeconfig=kubeconfig)
    return sorted(each["metadata"]["name"] for each in found)


def pods(name: str, role: str, *, namespace: str, pool: str = "", kubeconfig: str = "") -> list[charts.Document]:
    """A role's pods that are not ending, of one pool if given; `kubeconfig`: of another cluster."""
    selector = f"milliner.dev/topology={name},milliner.dev/role={role}" + (f",milliner.dev/pool={pool}" if pool else "")
    where = ("--namespace", namespace, *_cluster(kubeconfig))
    answer = kubectl.run("get", "pods", *where, "--selector", selector, "--output", "json")
    return [pod for pod in yaml.safe_load(answer)["items"] if "deletionTimestamp" not in pod["metadata"]]


@contextlib.contextmanager
def device(
    name: str, *, namespace: str, pool: str = "", port: int = 8080, kubeconfig: str = ""
) -> Iterator[httpx.Client]:
    """A client of the API of one device pod, of a pool if given, through `kubectl port-forward`; `kubeconfig`: in
    another cluster."""
    pod = names(name, "device", namespace=namespace, pool=pool, kubeconfig=kubeconfig)[0]
    command = ["kubectl", "port-forward", "--namespace", namespace, *_cluster(kubeconfig), f"pod/{pod}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forwarding:
        try:
            assert forwarding.stdout is not None
            said = forwarding.stdout.readline()
            found = _FORWARDING.search(said)
            assert found, said + forwarding.stdout.read()
            with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=ANSWER_S) as client:
                yield client
        finally:
            forwarding.kill()


def completion(client: httpx.Client, prompt: str, *, max_tokens: int, **options: Any) -> list[int]:
    """Token ids of the greedy answer to a prompt."""
    body = {
        "model": "demo",
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "return_token_ids": True,
        **options,
    }
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    ids: list[int] = answer.json()["choices"][0]["token_ids"]
    return ids


def diagnosis(name: str, *, namespace: str) -> str:
    """Status, objects, events and logs of a topology."""
    space = ("--namespace", namespace)
    selector = ("--selector", f"milliner.dev/topology={name}")
    calls = (
        ("get", "itopo", name, "--output", "yaml", *space),
        ("get", "pods,jobs,deployments,daemonsets", "--output", "wide", *space),
        ("get", "events", *space),
        ("logs", *selector, "--prefix", "--tail=40", "--all-containers", *space),
        ("logs", "deployment/milliner", "--tail=60", "--namespace", charts.NAMESPACE),
    )
    said = []
    for call in calls:
        try:
            said.append(kubectl.run(*call))
        except kubectl.Refused as refused:
            said.append(str(refused))
    return "\n".join(said)


def _cluster(kubeconfig: str) -> tuple[str, ...]:
    return ("--kubeconfig", kubeconfig) if kubeconfig else ()
