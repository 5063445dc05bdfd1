"""tls.mode CertManager at a real API server: without cert-manager, until Ready, expired, from Managed and back to it.

The tests tell one story, in their order, of one topology.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster import api_server, cert_manager, worlds
from tests.cluster.cert_manager import Authority, CertManager

SECRETS = CLOUD, DEVICE = "chat-cloud-tls", "chat-device-tls"
MODE = {"mode": "CertManager", "issuerRef": {"name": "team-ca"}}
SOON = datetime.timedelta(seconds=-5)


@pytest.fixture(scope="module")
def manager(world: worlds.World) -> Iterator[CertManager]:
    """cert-manager, not installed yet; a topology asks for it."""
    try:
        world.server.request("GET", f"{api_server.DEFINITIONS}/{cert_manager.NAME}")
    except api_server.Refused:
        pass
    else:
        pytest.skip("cert-manager is installed here and would answer beside its stand-in")
    found = CertManager(world.server, world.namespace)
    world.know("chat", tls=MODE)
    world.apply("chat", tls=MODE)
    try:
        yield found
    finally:
        found.uninstall()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("team-ca")


def tls_message(world: worlds.World) -> str:
    conditions = world.topology("chat")["status"]["conditions"]
    return next(str(each["message"]) for each in conditions if each["type"] == "TLSReady")


def until_message(world: worlds.World, part: str) -> None:
    """Waits for a part of TLSReady's message."""
    world.until(lambda: part in tls_message(world), name="chat")


def managers_of_data(secret: dict[str, Any]) -> set[str]:
    return {each["manager"] for each in secret["metadata"]["managedFields"] if "f:data" in each["fieldsV1"]}


def test_what_is_missing_is_named_until_both_certificates_are_issued(
    world: worlds.World, manager: CertManager, authority: Authority
) -> None:
    world.until_condition("chat", "TLSReady", "False", "CertificateNotReady")
    assert "install cert-manager" in tls_message(world)
    assert world.condition("chat", "Ready")[0] == "False"
    manager.install()
    world.until(lambda: manager.certificates().keys() == {CLOUD, DEVICE}, name="chat")
    assert not any(each.startswith(("deployments/", "pods/")) for each in world.children("chat"))
    manager.tell(CLOUD, status="False", message="Issuer team-ca not found")
    until_message(world, f"Certificate {CLOUD}: Issuer team-ca not found")
    manager.issue(DEVICE, authority)
    manager.issue(CLOUD, authority, ca=False)
    until_message(world, f"Secret {CLOUD} of Certificate {CLOUD} has no ca.crt")
    manager.issue(CLOUD, authority)
    world.until_condition("chat", "Ready", "True")
    assert tls_message(world).startswith("valid until ")


def test_issued_secrets_belong_to_both_and_nobody_writes_twice(world: worlds.World, manager: CertManager) -> None:
    for name in SECRETS:
        secret = manager.secret(name)
        assert managers_of_data(secret) == {"cert-manager-certificates-issuing"}
        assert [each["kind"] for each in secret["metadata"]["ownerReferences"]] == ["InferenceTopology"]
    world.passes("chat", 2)
    versions, writes = world.versions("chat"), world.operator.metric("milliner_operator_writes_total")
    world.passes("chat", 2)
    assert world.operator.metric("milliner_operator_writes_total") == writes
    assert world.versions("chat") == versions


def test_an_expired_certificate_is_never_ready(world: worlds.World, manager: CertManager, authority: Authority) -> None:
    pods = world.uids("chat", "")
    manager.issue(DEVICE, authority, life=SOON)
    world.until_condition("chat", "Ready", "False", "CertificateNotReady")
    until_message(world, f"Secret {DEVICE}: its certificate expired at")
    manager.issue(DEVICE, authority)
    world.until_condition("chat", "Ready", "True")
    assert world.uids("chat", "") == pods


def test_back_to_managed_nothing_foreign_is_left(world: worlds.World, manager: CertManager) -> None:
    pods = world.uids("chat", "")
    world.apply("chat", tls={"mode": "Managed"})
    world.until(lambda: "secrets/chat-ca" in world.children("chat"), name="chat")
    world.until_condition("chat", "Ready", "True")
    assert not manager.certificates()
    for name in SECRETS:
        secret = manager.secret(name)
        assert secret["type"] == "Opaque" and "annotations" not in secret["metadata"]
        assert "controller.cert-manager.io/fao" not in secret["metadata"]["labels"]
        assert {each["manager"] for each in secret["metadata"]["managedFields"]} == {"milliner-operator"}
    assert world.uids("chat", "") == pods


def test_to_cert_manager_the_old_certificates_stay_until_it_has_issued(
    world: worlds.World, manager: CertManager, authority: Authority
) -> None:
    pods, before = world.uids("chat", ""), manager.secret(CLOUD)["data"]
    world.apply("chat", tls=MODE)
    world.until(lambda: manager.certificates().keys() == {CLOUD, DEVICE}, name="chat")
    world.until(lambda: "secrets/chat-ca" not in world.children("chat"), name="chat")
    secret = manager.secret(CLOUD)
    assert secret["data"] == before
    assert secret["metadata"]["annotations"]["cert-manager.io/issuer-name"] == "chat"  # so that it is issued anew
    manager.issue(CLOUD, authority)
    until_message(world, f"Certificate {DEVICE}: no answer")
    manager.issue(DEVICE, authority, controls=True)
    world.until_condition("chat", "Ready", "True")
    assert managers_of_data(manager.secret(CLOUD)) == {"cert-manager-certificates-issuing"}
    owners = {name: [each["kind"] for each in manager.secret(name)["metadata"]["ownerReferences"]] for name in SECRETS}
    assert owners == {CLOUD: ["InferenceTopology"], DEVICE: ["Certificate"]}
    assert world.uids("chat", "") == pods


def test_deletion_takes_secrets_and_certificates_along_with_the_operator_stopped(
    world: worlds.World, manager: CertManager
) -> None:
    world.operator.stop()
    world.delete("chat")
    world.until(
        lambda: not any(each.startswith("secrets/") for each in world.children("chat")) and not manager.certificates()
    )
