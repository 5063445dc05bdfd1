"""tls.mode CertManager: what is asked of cert-manager and when, what TLSReady says, how a switch of modes goes."""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any, cast

import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import (
    api,
    cert_manager,
    certificates,
    errors,
    executor,
    kinds,
    plan,
    planner,
    sameness,
    status,
    tls,
    world,
)
from milliner_operator.children import common
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import ClusterRef, Manifest, Ref, RemoteCluster, Sightings
from milliner_operator.seen import Seen

CERT_MANAGER = {"spec.tls": {"mode": "CertManager", "issuerRef": {"name": "team-ca"}}}
NAMES = ("chat-cloud-tls", "chat-device-tls")
Objects = dict[Ref, Manifest]


def tls_plan(objects: Objects | None = None, changes: dict[str, Any] | None = None, **content: Any) -> plan.Tls:
    wanted = worlds.parsed(CERT_MANAGER | (changes or {}))
    seen = worlds.world(wanted, objects=objects or {}, **content)
    return tls.plan(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)


def ready(objects: Objects, **content: Any) -> Condition:
    found = tls_plan(objects, **content).ready
    assert found is not None
    return found


def named(found: plan.Tls, kind: str) -> dict[str, Manifest]:
    return {each["metadata"]["name"]: each for each in found.children if each["kind"] == kind}


def issued(*, ago_days: float = 0.0, ago_s: float = 0.0, own_cas: bool = False) -> Objects:
    """The Secrets and Certificates when cert-manager has done its work; `own_cas`: as a SelfSigned issuer does it."""
    now = worlds.NOW - datetime.timedelta(days=ago_days, seconds=ago_s)
    wanted = worlds.parsed(CERT_MANAGER)
    signed = [
        certificates.ensure(
            ca=None, cloud=None, device=None, topology="ca", cloud_names=["chat-cloud.default.svc"], now=now
        )
        for _ in range(2 if own_cas else 1)
    ]
    objects: Objects = {}
    for name, data in zip(NAMES, (signed[0].cloud, signed[-1].device), strict=True):
        shell = named(tls_plan(), "Secret")[name]
        metadata = {**shell["metadata"], "annotations": {"cert-manager.io/certificate-name": name}}
        objects["Secret", name] = {**shell, "metadata": metadata, "data": dict(data)}
    found = tls.plan(wanted, scope=worlds.scope(), world=worlds.world(wanted, objects=objects), now=worlds.NOW)
    for name, certificate in named(found, "Certificate").items():
        objects["Certificate", name] = answered(certificate, Ready=("True", "Certificate is up to date"))
    return objects


def answered(certificate: Manifest, **conditions: tuple[str, str]) -> Manifest:
    found = [
        {"type": kind, "status": value, "reason": "Told", "message": message, "observedGeneration": 1}
        for kind, (value, message) in conditions.items()
    ]
    metadata = {**certificate["metadata"], "generation": 1}
    return {**certificate, "metadata": metadata, "status": {"conditions": found}}


def test_secrets_come_before_the_certificates_that_fill_them() -> None:
    first = tls_plan()
    assert worlds.kinds_and_names(first.children) == {("Secret", name) for name in NAMES}
    for secret in first.children:
        assert "data" not in secret and "annotations" not in secret["metadata"]
        (owner,) = secret["metadata"]["ownerReferences"]
        assert owner["uid"] == worlds.UID and "controller" not in owner  # cert-manager may want to be the controller
    second = tls_plan({("Secret", each["metadata"]["name"]): each for each in first.children})
    assert named(second, "Certificate").keys() == set(NAMES)
    assert named(second, "Secret") == named(first, "Secret")


def test_nothing_is_asked_for_a_secret_of_somebody_elses() -> None:
    theirs = {"kind": "Secret", "metadata": {"name": NAMES[0], "labels": {}}, "data": {"tls.crt": "dGhlaXJz"}}
    assert not named(tls_plan({("Secret", NAMES[0]): theirs}), "Certificate")


@pytest.mark.parametrize(
    ("stages", "usages"), [(1, ["server auth"]), (2, ["server auth", "client auth"])], ids=["one", "pipeline"]
)
def test_certificates_ask_for_what_the_own_ones_have(stages: int, usages: list[str]) -> None:
    objects = {("Secret", each["metadata"]["name"]): each for each in tls_plan().children}
    found = named(tls_plan(objects, {"spec.cloud.pipelineStages": stages}), "Certificate")
    cloud, device = found[NAMES[0]]["spec"], found[NAMES[1]]["spec"]
    assert cloud["usages"] == ["digital signature", *usages]
    assert device["usages"] == ["digital signature", "client auth"]
    hosts = ["chat-cloud", "chat-cloud-stage1"][:stages]
    assert [each for each in cloud["dnsNames"] if "." not in each] == hosts
    assert device["dnsNames"] == ["device.chat.milliner.internal"] == [device["commonName"]]
    for name, spec in zip(NAMES, (cloud, device), strict=True):
        assert spec["secretName"] == name
        assert spec["issuerRef"] == {"name": "team-ca", "kind": "Issuer", "group": "cert-manager.io"}
        assert spec["secretTemplate"]["labels"] == objects["Secret", name]["metadata"]["labels"]
        assert spec["privateKey"] == {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"}
        assert (spec["duration"], spec["renewBefore"]) == ("720h0m0s", "240h0m0s")


def test_tiers_wait_for_their_certificates_and_are_planned_with_them() -> None:
    waiting = worlds.planned(CERT_MANAGER)
    assert not waiting.complete and not any(each["kind"] == "Deployment" for each in waiting.local)
    objects = issued()
    made = worlds.planned(CERT_MANAGER, objects=objects)
    assert made.complete
    managed = worlds.planned(identities=worlds.identities(worlds.parsed()))
    for name in ("chat-cloud", "chat-device-local"):  # the same pods, so that a switch of modes restarts none
        assert worlds.child(made, "Deployment", name) == worlds.child(managed, "Deployment", name)
    assert ("Secret", "chat-ca") not in worlds.kinds_and_names(made.local)


def test_issued_secrets_are_left_to_cert_manager() -> None:
    objects = issued()
    for name, secret in named(tls_plan(objects), "Secret").items():
        assert "data" not in secret and "annotations" not in secret["metadata"]
        labels: Any = {f"f:{label}": {} for label in secret["metadata"]["labels"]}
        owners: Any = {f'k:{{"uid":"{worlds.UID}"}}': {".": {}}}
        fields = {"f:metadata": {"f:labels": labels, "f:ownerReferences": owners}}
        live = {**objects["Secret", name]}
        entry = {"manager": "milliner-operator", "operation": "Apply", "fieldsV1": fields}
        live["metadata"] = {**live["metadata"], "managedFields": [entry]}
        assert sameness.unchanged(secret, live)


def test_a_secret_that_its_certificate_controls_has_no_second_owner() -> None:
    objects = issued()
    live = objects["Secret", NAMES[0]]
    live["metadata"]["ownerReferences"] = [{"kind": "Certificate", "uid": "uid-certificate", "controller": True}]
    secret = named(tls_plan(objects), "Secret")[NAMES[0]]
    assert "ownerReferences" not in secret["metadata"]


def test_a_switch_to_cert_manager_keeps_what_is_there_until_it_is_issued_anew() -> None:
    before = worlds.planned(identities=worlds.identities(worlds.parsed()))
    objects = {("Secret", name): worlds.child(before, "Secret", name) for name in ("chat-ca", *NAMES)}
    switched = worlds.planned(CERT_MANAGER, objects=objects)
    assert switched.complete  # pods go on, with what they have
    for name in NAMES:
        secret = worlds.child(switched, "Secret", name)
        assert secret["data"] == objects["Secret", name]["data"]
        # without another issuer's name cert-manager would take the certificate for its own and leave it
        annotations = secret["metadata"]["annotations"]
        assert annotations["cert-manager.io/issuer-kind"] == "InferenceTopology"
        assert worlds.child(switched, "Certificate", name)
    assert ("Secret", "chat-ca") not in worlds.kinds_and_names(switched.local)
    condition = switched.condition(Type.TLS_READY)
    assert condition is not None and condition.status is not True


def test_a_switch_back_removes_certificates_before_the_secrets_that_they_fill() -> None:
    objects = issued()
    wanted = worlds.parsed()
    back = worlds.planned(objects=objects, identities=worlds.identities(wanted))
    assert [kind for kind, _ in back.unwanted] == ["Certificate", "Certificate", "Secret", "Secret"]
    assert worlds.child(back, "Secret", NAMES[0])["metadata"]["ownerReferences"][0]["controller"] is True
    off = worlds.planned({"spec.tls.mode": "Disabled"}, objects=objects)
    assert set(off.unwanted) == {("Certificate", name) for name in NAMES}
    assert off.complete and not any(each["kind"] == "Secret" for each in off.local)


def test_a_spec_whose_model_is_not_inspected_asks_for_nothing_yet() -> None:
    """The last spec goes on meanwhile, perhaps with another mode: two would write to one Secret."""
    wanted = worlds.parsed(CERT_MANAGER)
    seen = dataclasses.replace(worlds.world(wanted), objects={})
    found = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert not {"Secret", "Certificate"} & {each["kind"] for each in found.local}
    assert found.condition(Type.TLS_READY) is not None


def change(objects: Objects, name: str, **data: str | None) -> Objects:
    """With other values in a Secret; None takes one away."""
    secret = objects["Secret", name]
    keys = {key.replace("_", "."): value for key, value in data.items()}
    kept = {key: value for key, value in secret["data"].items() if key not in keys}
    return {**objects, ("Secret", name): {**secret, "data": kept | {k: v for k, v in keys.items() if v is not None}}}


def told(**conditions: tuple[str, str]) -> Objects:
    objects = issued()
    return {**objects, ("Certificate", NAMES[0]): answered(objects["Certificate", NAMES[0]], **conditions)}


def without(objects: Objects, ref: Ref) -> Objects:
    return {key: value for key, value in objects.items() if key != ref}


def stale() -> Objects:
    objects = told(Ready=("True", ""))
    objects["Certificate", NAMES[0]]["metadata"]["generation"] = 2
    return objects


@pytest.mark.parametrize(
    ("objects", "expected", "message"),
    [
        (issued(), True, "valid until 2026-12-21T12:00:00Z"),
        (without(issued(), ("Certificate", NAMES[1])), None, "Certificate chat-device-tls is about to be made"),
        (told(), None, "Certificate chat-cloud-tls: no answer of cert-manager yet"),
        (stale(), None, "Certificate chat-cloud-tls: no answer of cert-manager yet"),
        (told(Ready=("False", "Secret does not exist")), False, "Certificate chat-cloud-tls: Secret does not exist"),
        (
            told(Ready=("False", "Secret does not exist"), Issuing=("False", "the request was denied")),
            False,
            "Certificate chat-cloud-tls: the request was denied",
        ),
        (without(issued(), ("Secret", NAMES[0])), False, "Secret chat-cloud-tls of Certificate chat-cloud-tls is not"),
        (
            change(issued(), NAMES[1], ca_crt=None),
            False,
            "Secret chat-device-tls of Certificate chat-device-tls has no ca.crt: Issuer team-ca gives no CA",
        ),
        (
            change(issued(), NAMES[0], tls_key=base64.b64encode(b"none").decode()),
            False,
            "Secret chat-cloud-tls of Certificate chat-cloud-tls holds no certificate with its key",
        ),
        (issued(ago_days=31), False, "Secret chat-cloud-tls: its certificate expired at 2026-11-20T12:00:00Z"),
        (
            issued(ago_days=30, ago_s=-20),  # before the next look
            False,
            "Secret chat-cloud-tls: its certificate is not renewed and expires at 2026-11-21T12:00:20Z",
        ),
        (issued(own_cas=True), False, "Secret chat-cloud-tls: its certificate is of no CA in Secret chat-device-tls"),
    ],
    ids=lambda each: each.split(":")[-1] if isinstance(each, str) else "",
)
def test_tls_ready_says_what_is_wrong(objects: Objects, expected: bool | None, message: str) -> None:
    found = ready(objects)
    assert (found.status, found.reason) == (
        expected,
        Reason.CERTIFICATES_VALID if expected else Reason.CERTIFICATE_NOT_READY,
    )
    assert found.message.startswith(message)


def test_without_cert_manager_it_says_so_and_asks_for_nothing() -> None:
    objects = {("Secret", each["metadata"]["name"]): each for each in tls_plan().children}
    found = tls_plan(objects, certificates_error=cert_manager.UNKNOWN_KIND)
    assert not named(found, "Certificate")
    assert found.ready is not None and found.ready.status is False
    assert "install cert-manager" in found.ready.message


def test_ready_is_false_with_an_expired_certificate_whatever_pods_say() -> None:
    made = worlds.planned(CERT_MANAGER, objects=issued(ago_days=31))
    assert made.complete
    seen = Seen(topology="chat", generation=1, plan=made, objects={}, clusters={}, troubles={}, sightings=Sightings())
    conditions = {each.type: each for each in status.all_conditions(seen)}
    assert conditions[Type.READY].status is False
    assert conditions[Type.READY].reason is Reason.CERTIFICATE_NOT_READY


def test_a_pool_elsewhere_gets_the_devices_secret_as_it_was_issued() -> None:
    edge = ClusterRef("edge", "kubeconfig")
    pool = {"name": "orin", "clusterSecretRef": {"name": "edge"}}
    changes = CERT_MANAGER | {"spec.devicePools": [pool], "spec.cloud.service": {"type": "LoadBalancer"}}
    address = {"status": {"loadBalancer": {"ingress": [{"ip": "10.1.2.3"}]}}}
    objects = issued() | {("Service", "chat-cloud-external"): address}
    extra = change(objects, NAMES[1], **{"keystore.jks": "AAAA"})
    made = worlds.planned(changes, objects=extra, clusters={edge: RemoteCluster()})
    (copy,) = (each for each in made.remote[edge] if each["kind"] == "Secret")
    assert copy["data"] == objects["Secret", NAMES[1]]["data"]
    assert copy["metadata"]["labels"][common.LABEL_TOPOLOGY_UID] == worlds.UID
    assert "Certificate" not in {each["kind"] for each in made.remote[edge]}


@pytest.mark.parametrize(
    ("mode", "objects", "expected"),
    [
        ("CertManager", {}, True),
        ("Disabled", {}, True),
        ("Managed", {}, True),  # until there is a CA, nobody knows
        ("Managed", {("Secret", "chat-ca"): {"metadata": {}}}, False),
        ("Managed", {("Secret", "chat-ca"): {"metadata": {}}} | issued(), True),
    ],
)
def test_certificates_are_only_asked_for_where_there_may_be_some(mode: str, objects: Objects, expected: bool) -> None:
    assert cert_manager.are_possible(mode, objects, topology_name="chat") is expected


class Server:
    """An API server without children, on which cert-manager's webhook does not answer."""

    def __init__(self) -> None:
        self.applied: list[Manifest] = []

    async def get(self, kind: object, namespace: str, name: str) -> None:
        return None

    async def apply(self, manifest: Manifest) -> Manifest:
        if manifest["kind"] == "Certificate":
            raise errors.of_status(500, "failed calling webhook webhook.cert-manager.io")
        self.applied.append(manifest)
        return manifest


async def test_a_webhook_that_does_not_answer_is_told_and_stops_nothing_else() -> None:
    made = worlds.planned(CERT_MANAGER, objects=without(issued(), ("Certificate", NAMES[0])))
    server = Server()
    outcome = await executor.execute(
        cast(api.Api, server), namespace="default", uid=worlds.UID, wanted=made.local, live={}, complete=True
    )
    assert len(server.applied) == len(made.local) - 2
    trouble = outcome.troubles["tls"]
    assert trouble.message == "Certificate chat-cloud-tls: failed calling webhook webhook.cert-manager.io"


class WithoutRights:
    """An API server with a Secret, whose Certificates the operator may not see: older rights."""

    async def list(self, kind: kinds.Kind, namespace: str, **_: object) -> Sequence[Manifest]:
        if kind == kinds.CERTIFICATE:
            raise errors.of_status(403, "certificates.cert-manager.io is forbidden")
        return [{"kind": "Secret", "metadata": {"name": "found"}}] if kind == kinds.SECRET else []


async def test_missing_rights_harm_only_who_asks_for_certificates() -> None:
    client = cast(api.Api, WithoutRights())
    assert await world.children(client, worlds.document()) == {
        ("Secret", "found"): {"kind": "Secret", "metadata": {"name": "found"}}
    }
    for changes, message in (({}, ""), (CERT_MANAGER, "Certificates of cert-manager cannot be listed")):
        wanted = worlds.parsed(changes)
        seen = await world.look(client, wanted, scope=worlds.scope(), objects={}, clusters={}, now=worlds.NOW)
        assert seen.certificates_error.startswith(message) and bool(seen.certificates_error) is bool(message)
