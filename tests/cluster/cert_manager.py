"""Stands in for cert-manager: its Certificate kind, cut down, and what its controllers write, on the test's word.

Field names, field manager, annotations and the order of writes are cert-manager's. Where the real one is installed the
tests are skipped: it would answer too.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.cluster import api_server

NAME = "certificates.cert-manager.io"
_MANAGER = "cert-manager-certificates-issuing"
_PART = {"controller.cert-manager.io/fao": "true"}
_USAGES = {"server auth": ExtendedKeyUsageOID.SERVER_AUTH, "client auth": ExtendedKeyUsageOID.CLIENT_AUTH}
_TEXT, _TEXTS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_MAP = {"type": "object", "additionalProperties": _TEXT}


def _group(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


_SPEC = _group(
    ("issuerRef", "secretName"),
    secretName=_TEXT,
    secretTemplate=_group(labels=_MAP, annotations=_MAP),
    issuerRef=_group(("name",), name=_TEXT, kind=_TEXT, group=_TEXT),
    commonName=_TEXT,
    dnsNames=_TEXTS,
    usages=_TEXTS,
    duration=_TEXT,
    renewBefore=_TEXT,
    revisionHistoryLimit={"type": "integer"},
    privateKey=_group(
        algorithm={"type": "string", "enum": ["RSA", "ECDSA", "Ed25519"]},
        size={"type": "integer"},
        rotationPolicy={"type": "string", "enum": ["Never", "Always"]},
    ),
)
_CONDITION = _group(
    ("type", "status"),
    type=_TEXT,
    status=_TEXT,
    reason=_TEXT,
    message=_TEXT,
    observedGeneration={"type": "integer"},
    lastTransitionTime=_TEXT,
)
_STATUS = _group(conditions={"type": "array", "items": _CONDITION}, notAfter=_TEXT)
DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": NAME, "labels": {"milliner-tests": "stand-in"}},
    "spec": {
        "group": "cert-manager.io",
        "scope": "Namespaced",
        "names": {"kind": "Certificate", "plural": "certificates", "singular": "certificate"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": _group(spec=_SPEC, status=_STATUS)},
            }
        ],
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class Authority:
    """The CA of an issuer."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls, name: str) -> Authority:
        key, subject = ec.generate_private_key(ec.SECP256R1()), _name(name)
        builder = _builder(subject, key, life=datetime.timedelta(days=90)).issuer_name(subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    def sign(self, spec: Mapping[str, Any], *, life: datetime.timedelta) -> tuple[bytes, bytes]:
        """Certificate and key as a Certificate's spec asks for them, PEM; a negative `life` has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name(spec["commonName"]), key, life=life).issuer_name(self.certificate.subject)
        alternatives = [x509.DNSName(each) for each in spec["dnsNames"]]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        usages = [_USAGES[each] for each in spec["usages"] if each in _USAGES]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private = key.private_bytes(encoding, form, serialization.NoEncryption())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(encoding), private


@dataclasses.dataclass(frozen=True, slots=True)
class CertManager:
    """cert-manager in one namespace; issues only when it is told to."""

    server: api_server.ApiServer
    namespace: str

    def install(self) -> None:
        """Makes the kind known."""
        self.server.install(DEFINITION, plural=f"{DEFINITION['spec']['group']}/v1/certificates")

    def uninstall(self) -> None:
        """With all Certificates."""
        self.server.request("DELETE", f"{api_server.DEFINITIONS}/{NAME}")

    def certificates(self) -> dict[str, dict[str, Any]]:
        found = self.server.request("GET", self._certificate(""))
        head = {"apiVersion": found["apiVersion"], "kind": "Certificate"}
        return {each["metadata"]["name"]: head | each for each in found["items"]}

    def issue(
        self,
        name: str,
        authority: Authority,
        *,
        life: datetime.timedelta = datetime.timedelta(days=30),
        ca: bool = True,
        controls: bool = False,
    ) -> None:
        """Fills a Certificate's Secret and says that it is ready; `ca`: with the issuer's CA; `controls`: the
        Certificate becomes the Secret's controller, which cert-manager does if it is told to."""
        request = self.certificates()[name]
        spec = request["spec"]
        certificate, key = authority.sign(spec, life=life)
        data = {"tls.crt": certificate, "tls.key": key}
        if ca:
            data["ca.crt"] = authority.certificate.public_bytes(serialization.Encoding.PEM)
        issuer = {f"cert-manager.io/issuer-{key}": value for key, value in spec["issuerRef"].items()}
        document: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": spec["secretName"],
                "labels": spec["secretTemplate"]["labels"] | _PART,
                "annotations": issuer | {"cert-manager.io/certificate-name": name},
            },
            "type": self._type(spec["secretName"]),
            "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
        }
        if controls:
            owner = {"apiVersion": request["apiVersion"], "kind": request["kind"], "name": name}
            owner |= {"uid": request["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}
            document["metadata"]["ownerReferences"] = [owner]
        self.server.apply(self._secret(spec["secretName"]), document, manager=_MANAGER)
        self.tell(name, status="True", message="Certificate is up to date and has not expired")

    def tell(self, name: str, *, status: str, message: str) -> None:
        """The Certificate's condition Ready."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": status, "reason": "Told", "message": message, "lastTransitionTime": now}
        ready |= {"observedGeneration": self.certificates()[name]["metadata"]["generation"]}
        path = f"{self._certificate(name)}/status"
        self.server.request("PATCH", path, body={"status": {"conditions": [ready]}}, content_type=api_server.MERGE)

    def secret(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.request("GET", self._secret(name))
        return found

    def _type(self, name: str) -> str:
        """Of the Secret that is there: it cannot be changed."""
        try:
            return str(self.secret(name)["type"])
        except api_server.Refused:
            return "kubernetes.io/tls"

    def _certificate(self, name: str) -> str:
        return f"/apis/cert-manager.io/v1/namespaces/{self.namespace}/certificates" + (f"/{name}" if name else "")

    def _secret(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/secrets/{name}"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, life: datetime.timedelta
) -> x509.CertificateBuilder:
    now, hour = datetime.datetime.now(datetime.UTC), datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder(subject_name=subject, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(min(now, now + life) - hour).not_valid_after(now + life)
