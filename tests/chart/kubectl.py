"""What the chart tests ask of an API server, through kubectl and the kubeconfig that KUBECONFIG names."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from tests.chart import charts

NAMESPACES = (charts.NAMESPACE, "team-a", "team-b")  # the release's, and those that value sets watch
DEADLINE_S = 60.0  # arbitrary; of one call
FOLLOWED_S = 20.0  # until an API server serves a changed definition; it takes one or two


class Refused(Exception):
    """kubectl failed; the text is what it said."""


def run(*arguments: str, documents: Sequence[charts.Document] = (), deadline_s: float = DEADLINE_S) -> str:
    """kubectl's output; `documents` are its standard input. Raises `Refused`."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)}) if documents else None
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, timeout=deadline_s, check=False
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def apply(documents: Sequence[charts.Document], *options: str) -> str:
    return run("apply", "--server-side", "--force-conflicts", "-f", "-", *options, documents=documents)


def apply_when_taken(document: charts.Document) -> None:
    """Applies it as soon as the API server follows a definition that was just changed; `Refused` if it never does."""
    deadline = time.monotonic() + FOLLOWED_S
    while True:
        try:
            apply([document])
            return
        except Refused:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def refusal(document: charts.Document) -> str:
    """Why the API server refuses it, as soon as it follows a definition that was just changed."""
    deadline = time.monotonic() + FOLLOWED_S
    while time.monotonic() < deadline:
        try:
            apply([document], "--dry-run=server")
        except Refused as refused:
            return str(refused)
        time.sleep(0.2)
    raise AssertionError("it is taken")


def get(kind: str, name: str, *, namespace: str = "default") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("get", kind, name, "--namespace", namespace, "--output", "json"))
    return found


def namespace(name: str) -> charts.Document:
    """A namespace under Pod Security "restricted"."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def allowed(user: str, requests: Sequence[tuple[str, str, str, str]]) -> list[bool]:
    """Whether `user` may do each of (verb, group, resource with subresource, namespace or "")."""
    reviews = [_review(user, verb, group, resource, space) for verb, group, resource, space in requests]
    answer = run("create", "-f", "-", "--output", 'jsonpath={.status.allowed}{"\\n"}', documents=reviews)
    lines = answer.splitlines()
    assert len(lines) == len(requests), answer
    return [line == "true" for line in lines]


def _review(user: str, verb: str, group: str, resource: str, space: str) -> charts.Document:
    name, _, subresource = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": name, "subresource": subresource, "namespace": space}
    spec = {"user": user, "resourceAttributes": {key: value for key, value in attributes.items() if value}}
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
