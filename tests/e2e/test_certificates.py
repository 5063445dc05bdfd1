"""Certificates that expired while no operator ran: Ready is not True, and without a restart of a pod it comes back."""

from __future__ import annotations

import base64
import datetime
import json
import time
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.chart import charts, kubectl
from tests.e2e import installation, topologies

LIFE = datetime.timedelta(days=31)
AGO = datetime.timedelta(days=1)
USUAL_S = 20.0  # longer than a device of the demo model takes from its start until it is ready


def scale_operator(replicas: int) -> None:
    """Stops the operator or starts it, and waits until that is so."""
    deployment = (f"deployment/{installation.RELEASE}", "--namespace", charts.NAMESPACE)
    kubectl.run("scale", *deployment, f"--replicas={replicas}")
    if replicas:
        kubectl.run("rollout", "status", *deployment, "--timeout=50s")
    else:
        selector = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=milliner"
        kubectl.run("wait", "--for=delete", "pod", "--selector", selector, "--namespace", charts.NAMESPACE)


def expired(leaf: x509.Certificate, *, ca: x509.Certificate, signer: Any) -> x509.Certificate:
    """The same certificate as the CA would have issued it a month ago."""
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(leaf.subject).issuer_name(ca.subject)
    builder = builder.public_key(leaf.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - LIFE).not_valid_after(now - AGO)
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(signer, hashes.SHA256())


def expire(namespace: str) -> None:
    """Replaces both tiers' certificates by expired ones."""
    authority = decoded(kubectl.get("secret", "chat-ca", namespace=namespace))
    ca = x509.load_pem_x509_certificate(authority["tls.crt"])
    signer = serialization.load_pem_private_key(authority["tls.key"], password=None)
    for name in ("chat-cloud-tls", "chat-device-tls"):
        leaf = x509.load_pem_x509_certificate(decoded(kubectl.get("secret", name, namespace=namespace))["tls.crt"])
        content = expired(leaf, ca=ca, signer=signer).public_bytes(serialization.Encoding.PEM)
        patch = {"data": {"tls.crt": base64.b64encode(content).decode()}}
        kubectl.run("patch", "secret", name, "--namespace", namespace, "--type=merge", "--patch", json.dumps(patch))


def decoded(secret: charts.Document) -> dict[str, bytes]:
    """A Secret's data."""
    return {key: base64.b64decode(value) for key, value in secret["data"].items()}


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
        time.sleep(USUAL_S)
        (device,) = topologies.pods("chat", "device", namespace=namespace)
        assert {each["type"]: each["status"] for each in device["status"]["conditions"]}["Ready"] == "False"
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
