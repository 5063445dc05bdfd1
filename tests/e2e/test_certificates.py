"""Certificates that expired while no operator ran: Ready is not True, and without a restart of a pod it comes back."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from tests.chart import charts, kubectl
from tests.e2e import installation, topologies

from milliner_operator import certificates

AGE = certificates.LEAF_LIFE + datetime.timedelta(days=1)


def scale_operator(replicas: int) -> None:
    """Stops the operator or starts it, and waits until that is so."""
    deployment = (f"deployment/{installation.RELEASE}", "--namespace", charts.NAMESPACE)
    kubectl.run("scale", *deployment, f"--replicas={replicas}")
    if replicas:
        kubectl.run("rollout", "status", *deployment, "--timeout=50s")
    else:
        selector = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=milliner"
        kubectl.run("wait", "--for=delete", "pod", "--selector", selector, "--namespace", charts.NAMESPACE)


def expire(namespace: str) -> None:
    """Replaces both tiers' certificates by what the same CA would have issued a month ago."""
    secrets = {name: kubectl.get("secret", name, namespace=namespace) for name in ("chat-ca", "chat-cloud-tls")}
    old = certificates.ensure(
        ca=secrets["chat-ca"]["data"],
        cloud=None,
        device=None,
        topology="chat",
        cloud_names=["chat-cloud"],
        now=datetime.datetime.now(datetime.UTC) - AGE,
    )
    assert old.expires < datetime.datetime.now(datetime.UTC)
    assert old.ca["tls.crt"] == secrets["chat-ca"]["data"]["tls.crt"]
    for name, data in (("chat-cloud-tls", old.cloud), ("chat-device-tls", old.device)):
        secret = kubectl.get("secret", name, namespace=namespace)
        secret["metadata"] = {"name": name, "namespace": namespace}
        kubectl.apply([secret | {"data": dict(data)}])


def hurry(namespace: str) -> None:
    """Makes kubelets look at changed Secrets now instead of within two minutes: they do when a pod changes."""
    kubectl.run("annotate", "pods", "--all", "tests=hurry", "--overwrite", "--namespace", namespace)


def restarts(namespace: str) -> dict[str, int]:
    """Restarts by pod."""
    pods = [each for role in ("cloud", "device") for each in topologies.pods("chat", role, namespace=namespace)]
    statuses: dict[str, list[dict[str, Any]]] = {
        each["metadata"]["name"]: each["status"]["containerStatuses"] for each in pods
    }
    return {name: sum(one["restartCount"] for one in each) for name, each in statuses.items()}


@pytest.fixture
def chat(namespace: str) -> None:
    """A topology that is ready."""
    kubectl.apply([topologies.small(namespace=namespace)])
    topologies.wait_ready("chat", namespace=namespace)


def test_expired_certificates_are_never_ready_and_are_renewed_without_restart(chat: None, namespace: str) -> None:
    scale_operator(0)
    try:
        expire(namespace)
        kubectl.run("delete", "pods", "--all", "--namespace", namespace)  # connections that stand outlive a certificate
        running = ("--for=jsonpath={.status.phase}=Running", "pods", "--all", "--namespace", namespace)
        kubectl.run("wait", *running, "--timeout=50s")
    finally:
        scale_operator(1)
    topologies.wait_condition("chat", "Ready", "False", namespace=namespace)
    before = restarts(namespace)
    hurry(namespace)
    topologies.wait_ready("chat", namespace=namespace)
    assert restarts(namespace) == before
    with topologies.device("chat", namespace=namespace) as client:
        assert len(topologies.completion(client, "def main(argv):\n", max_tokens=4)) == 4
    kubectl.run("delete", "itopo", "chat", "--namespace", namespace)
