"""Certificate authorities and leaves for tests, made as an issuer would, with any dates."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from milliner.contract import role_config

CLOUD_NAME = "chat-cloud.default.svc"
DAY = datetime.timedelta(days=1)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Authority:
    """A CA."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key, not_after=_now() + 365 * DAY)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Authority(builder.sign(key, hashes.SHA256()), key)


@dataclasses.dataclass(frozen=True, slots=True)
class Tier:
    """A tier's folder with `ca.crt`, `tls.crt` and `tls.key`, replaced as a kubelet does it: each file as a whole."""

    folder: pathlib.Path

    @property
    def files(self) -> role_config.TlsFiles:
        return role_config.TlsFiles(
            ca_file=str(self.folder / "ca.crt"),
            certificate_file=str(self.folder / "tls.crt"),
            key_file=str(self.folder / "tls.key"),
            server_name=CLOUD_NAME,
        )

    def trust(self, *authorities: Authority) -> None:
        self.write("ca.crt", b"".join(each.pem for each in authorities))

    def take(
        self,
        signer: Authority,
        *,
        server: bool,
        name: str = CLOUD_NAME,
        not_after: datetime.datetime | None = None,
        key_too: bool = True,
    ) -> None:
        """A new leaf; without `key_too` its key is still to come."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "leaf")])
        builder = _builder(subject, signer.certificate.subject, key, not_after=not_after or _now() + 30 * DAY)
        usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
        leaf = builder.add_extension(issuer, critical=False).sign(signer.key, hashes.SHA256())
        if key_too:
            form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            self.write("tls.key", key.private_bytes(serialization.Encoding.PEM, form, plain))
        self.write("tls.crt", leaf.public_bytes(serialization.Encoding.PEM))

    def write(self, name: str, content: bytes) -> None:
        new = self.folder / f".{name}"
        new.write_bytes(content)
        os.replace(new, self.folder / name)


def tiers(folder: pathlib.Path, signer: Authority) -> tuple[Tier, Tier]:
    """A cloud and a device that trust `signer` and hold its leaves."""
    found = []
    for name in ("cloud", "device"):
        tier = Tier(folder / name)
        tier.folder.mkdir()
        tier.trust(signer)
        tier.take(signer, server=name == "cloud")
        found.append(tier)
    return found[0], found[1]


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, not_after: datetime.datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=_now() - 60 * DAY,
        not_valid_after=not_after,
    )
