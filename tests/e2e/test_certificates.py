"""Certificates on real nodes: renewed and signed by a new CA under load; expired ones are never Ready. No pod restarts.

Nobody waits for a month here: certificates and CAs are replaced by what the same keys would hold later in their life.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from tests.chart import charts, kubectl
from tests.cluster import api_server, cert_manager
from tests.e2e import installation, streams, topologies

DAY = datetime.timedelta(days=1)
READ_S = 60.0  # for a changed Secret to be served: a pass of the operator and a look of the kubelet's
POLL_S = 0.5
TIERS = ("chat-cloud-tls", "chat-device-tls")
REQUESTS = (("def main(argv):\n", 32), ("import asyncio\n", 4))  # a second or less each on an idle machine
FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


def scale_operator(replicas: int) -> None:
    """Stops the operator or starts it, and waits until that is so."""
    deployment = (f"deployment/{installation.RELEASE}", "--namespace", charts.NAMESPACE)
    kubectl.run("scale", *deployment, f"--replicas={replicas}")
    if replicas:
        kubectl.run("rollout", "status", *deployment, "--timeout=50s")
    else:
        selector = "app.kubernetes.io/component=operator,app.kubernetes.io/part-of=milliner"
        kubectl.run("wait", "--for=delete", "pod", "--selector", selector, "--namespace", charts.NAMESPACE)


def secret(name: str, *, namespace: str) -> dict[str, bytes]:
    """A Secret's data."""
    found = kubectl.get("secret", name, namespace=namespace)
    return {key: base64.b64decode(value) for key, value in found["data"].items()}


def replace(name: str, *, namespace: str, **certificates: x509.Certificate) -> None:
    """Puts certificates into a Secret; `tls` is the entry tls.crt."""
    data = {
        f"{key}.crt": base64.b64encode(each.public_bytes(serialization.Encoding.PEM)).decode()
        for key, each in certificates.items()
    }
    patch = json.dumps({"data": data})
    kubectl.run("patch", "secret", name, "--namespace", namespace, "--type=merge", "--patch", patch)


def redated(found: bytes, *, ca: bytes, key: bytes, since: datetime.timedelta, until: datetime.timedelta) -> Any:
    """The certificate `found` as the CA with this key would have issued it; times from now."""
    before, now = x509.load_pem_x509_certificate(found), datetime.datetime.now(datetime.UTC)
    signer: Any = serialization.load_pem_private_key(key, password=None)
    issuer = x509.load_pem_x509_certificate(ca).subject
    builder = x509.CertificateBuilder().subject_name(before.subject).issuer_name(issuer)
    builder = builder.public_key(before.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now + since).not_valid_after(now + until)
    for extension in before.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(signer, hashes.SHA256())


def is_issued(certificate: bytes, *, by: x509.Certificate) -> bool:
    """Whether a CA has signed it; all CAs of a topology have one name."""
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(by)
    except InvalidSignature:
        return False
    return True


def is_young(certificate: bytes) -> bool:
    """Whether it was issued just now."""
    return datetime.datetime.now(datetime.UTC) - x509.load_pem_x509_certificate(certificate).not_valid_before_utc < DAY


def redate_leaves(namespace: str, *, since: datetime.timedelta, until: datetime.timedelta) -> None:
    """Replaces both tiers' certificates."""
    authority = secret("chat-ca", namespace=namespace)
    for name in TIERS:
        leaf = secret(name, namespace=namespace)["tls.crt"]
        signed = redated(leaf, ca=authority["tls.crt"], key=authority["tls.key"], since=since, until=until)
        replace(name, namespace=namespace, tls=signed)


def hurry(namespace: str) -> None:
    """Makes kubelets look at changed Secrets now instead of within two minutes: they do when a pod changes."""
    mark = f"tests=hurry-{time.monotonic_ns()}"
    kubectl.run("annotate", "pods", "--all", mark, "--overwrite", "--namespace", namespace)


def restarts(namespace: str) -> dict[str, int]:
    """Restarts by pod."""
    pods = [each for role in ("cloud", "device") for each in topologies.pods("chat", role, namespace=namespace)]
    statuses: dict[str, list[dict[str, Any]]] = {
        each["metadata"]["name"]: each["status"]["containerStatuses"] for each in pods
    }
    return {name: sum(one["restartCount"] for one in each) for name, each in statuses.items()}


def wait_refused(namespace: str) -> None:
    """Waits until every device says that it serves nobody, and why."""
    waiting = set(topologies.names("chat", "device", namespace=namespace))
    deadline = time.monotonic() + READ_S
    while waiting:
        assert time.monotonic() < deadline, f"{waiting} do not say that their certificate has expired"
        time.sleep(POLL_S)
        for pod in sorted(waiting):
            events = kubectl.run("logs", pod, "--namespace", namespace).splitlines()
            if any('"waiting"' in each and "tls.crt expired at" in each for each in events):
                waiting.remove(pod)


@contextlib.contextmanager
def cloud_port(namespace: str) -> Iterator[int]:
    """A port of this machine that leads to the cloud pod's gRPC."""
    (pod,) = topologies.names("chat", "cloud", namespace=namespace)
    command = ["kubectl", "port-forward", "--namespace", namespace, f"pod/{pod}", ":50051"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forwarding:
        try:
            assert forwarding.stdout is not None
            said = forwarding.stdout.readline()
            found = FORWARDING.search(said)
            assert found, said
            yield int(found[1])
        finally:
            forwarding.kill()


def served(port: int) -> x509.Certificate:
    """The certificate that the cloud shows in a handshake; with TLS 1.3 before it asks for the client's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, context.wrap_socket(plain) as secured:
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown)


def until(what: Callable[[], bool], why: str, *, namespace: str) -> None:
    """Waits; TLSReady stays True meanwhile."""
    deadline = time.monotonic() + READ_S
    while not what():
        assert time.monotonic() < deadline, f"not within {READ_S} s: {why}"
        ready = topologies.condition("chat", "TLSReady", namespace=namespace)
        assert ready["status"] == "True", ready
        time.sleep(POLL_S)


def until_served(port: int, *, namespace: str) -> x509.Certificate:
    """The cloud's certificate once it is the one in its Secret."""

    def current() -> bool:
        hurry(namespace)
        wanted = secret(TIERS[0], namespace=namespace)["tls.crt"]
        return served(port) == x509.load_pem_x509_certificate(wanted)

    until(current, "the cloud does not serve what is in its Secret", namespace=namespace)
    return served(port)


def until_trusted(ca: bytes, *, namespace: str) -> None:
    """Waits until every pod has a CA in its file."""

    def everywhere() -> bool:
        hurry(namespace)
        pods = [each for role in ("cloud", "device") for each in topologies.names("chat", role, namespace=namespace)]
        files = [
            kubectl.run("exec", pod, "--namespace", namespace, "--", "cat", "/etc/milliner-tls/ca.crt") for pod in pods
        ]
        return all(ca.decode() in each for each in files)

    until(everywhere, "a pod does not trust the next CA", namespace=namespace)


def ask_until(done: threading.Event, client: httpx.Client, prompt: str, max_tokens: int) -> list[list[int]]:
    """All streamed answers to a prompt, asked again and again; the last was on its way when `done` was set."""
    found = []
    while not done.is_set():
        with streams.streaming(client, prompt, max_tokens=max_tokens) as stream:
            found.append(stream.tokens())
    return found


@contextlib.contextmanager
def under_load(namespace: str) -> Iterator[None]:
    """Requests all the time, which all are answered, each prompt always alike."""
    done = threading.Event()
    with topologies.device("chat", namespace=namespace) as client, futures.ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask_until, done, client, *request) for request in REQUESTS]
        try:
            yield
        finally:
            done.set()
        for each in asking:
            answers = each.result()
            assert len(answers[0]) > 1 and all(answer == answers[0] for answer in answers)


def test_renewal_and_a_new_ca_interrupt_nothing(chat: charts.Document) -> None:
    namespace = chat["metadata"]["namespace"]
    before = restarts(namespace)
    with cloud_port(namespace) as port, under_load(namespace):
        first = served(port)
        redate_leaves(namespace, since=-25 * DAY, until=5 * DAY)  # past two thirds of thirty days
        until(
            lambda: all(is_young(secret(name, namespace=namespace)["tls.crt"]) for name in TIERS),
            "the operator does not renew",
            namespace=namespace,
        )
        renewed = until_served(port, namespace=namespace)
        assert renewed.serial_number != first.serial_number and renewed.issuer == first.issuer

        authority = secret("chat-ca", namespace=namespace)
        old = {"ca": authority["tls.crt"], "key": authority["tls.key"]}
        replace("chat-ca", namespace=namespace, tls=redated(old["ca"], **old, since=-250 * DAY, until=115 * DAY))
        until(lambda: "next.crt" in secret("chat-ca", namespace=namespace), "there is no next CA", namespace=namespace)
        authority = secret("chat-ca", namespace=namespace)
        until_trusted(authority["next.crt"], namespace=namespace)
        assert served(port) == renewed  # the next CA signs an hour later only: that hour passes now
        new = {"ca": authority["next.crt"], "key": authority["next.key"]}
        later = redated(new["ca"], **new, since=-DAY / 12, until=365 * DAY)
        replace("chat-ca", namespace=namespace, next=later)
        until(
            lambda: all(is_issued(secret(name, namespace=namespace)["tls.crt"], by=later) for name in TIERS),
            "the next CA does not sign",
            namespace=namespace,
        )
        until_served(port, namespace=namespace)
    assert restarts(namespace) == before


@pytest.fixture
def manager(chat: charts.Document) -> Iterator[cert_manager.CertManager]:
    """A stand-in for cert-manager in the topology's namespace; goes before the topology is as it was."""
    if kubectl.run("get", "crd", cert_manager.NAME, "--ignore-not-found", "--output", "name"):
        pytest.skip("cert-manager is installed here and would answer beside its stand-in")
    with api_server.connect(pathlib.Path(os.environ["KUBECONFIG"].split(os.pathsep)[0])) as server:
        found = cert_manager.CertManager(server, chat["metadata"]["namespace"])
        found.install()
        yield found
        found.uninstall()


def test_pods_serve_with_what_cert_manager_issues_but_not_when_that_has_expired(
    chat: charts.Document, manager: cert_manager.CertManager, watched: None
) -> None:
    namespace, authority = chat["metadata"]["namespace"], cert_manager.Authority.new("team-ca")
    before = restarts(namespace)
    chat["spec"]["tls"] = {"mode": "CertManager", "issuerRef": {"name": "team-ca"}}
    kubectl.apply([chat])
    topologies.wait_condition("chat", "TLSReady", "Unknown", "CertificateNotReady", namespace=namespace)
    for name in TIERS:
        manager.issue(name, authority)
    topologies.wait_condition("chat", "TLSReady", "True", namespace=namespace)
    with cloud_port(namespace) as port:
        until_served(port, namespace=namespace).verify_directly_issued_by(authority.certificate)
    topologies.wait_ready("chat", namespace=namespace)
    manager.issue(TIERS[1], authority, life=-DAY)
    topologies.wait_condition("chat", "Ready", "False", "CertificateNotReady", namespace=namespace)
    manager.issue(TIERS[1], authority)
    hurry(namespace)
    topologies.wait_ready("chat", namespace=namespace)
    with topologies.device("chat", namespace=namespace) as client:
        assert len(topologies.completion(client, "def main(argv):\n", max_tokens=4)) == 4
    assert restarts(namespace) == before


def test_expired_certificates_are_never_ready_and_are_renewed_without_restart(chat: charts.Document) -> None:
    namespace = chat["metadata"]["namespace"]
    scale_operator(0)
    try:
        redate_leaves(namespace, since=-31 * DAY, until=-DAY)
        pods = ("--selector", "milliner.dev/topology=chat", "--namespace", namespace)
        kubectl.run("delete", "pods", *pods, "--grace-period=1")  # connections that stand outlive a certificate
        kubectl.run("wait", "--for=jsonpath={.status.phase}=Running", "pods", *pods, "--timeout=50s")
        wait_refused(namespace)
        for device in topologies.pods("chat", "device", namespace=namespace):
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
