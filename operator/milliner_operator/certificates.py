"""A CA for each topology and short-lived certificates for its tiers; when they are renewed, and how that overlaps.

A leaf is renewed when two thirds of its life are over, a CA likewise: the next CA is published beside the current one
first, and signs only after `_PUBLISH`, when every pod trusts it, and once each other cluster's Secret has it, for which
a silent one is waited until the old CA expires; the old one stays trusted until then. Roles read their files anew, so
nothing restarts. Pure but for the keys that `ensure` generates; `reconcile` calls it on a thread.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import exceptions, x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE = datetime.timedelta(days=365)
LEAF_LIFE = datetime.timedelta(days=30)
_PUBLISH = datetime.timedelta(hours=1)  # kubelets bring a changed Secret to its pods within about two minutes
_BACKDATED = datetime.timedelta(minutes=5)  # clocks of the tiers differ

_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH

Data = Mapping[str, str]  # as in a Secret: base64 of PEM
CA_KEY = "ca.crt"
_TIER_KEYS = ("tls.crt", "tls.key", CA_KEY)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: str
    key: str

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.encode())


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What a tier's Secret holds: a chain with the leaf first, and the CAs that it trusts, PEM."""

    certificate: str
    ca: str
    expires: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Identities:
    """The data of a topology's three TLS Secrets, and when the first leaf expires."""

    ca: Data
    cloud: Data
    device: Data
    expires: datetime.datetime


def ensure(
    *,
    ca: Mapping[str, Any] | None,
    cloud: Mapping[str, Any] | None,
    device: Mapping[str, Any] | None,
    topology: str,
    cloud_names: Sequence[str],
    cloud_calls: bool = False,
    elsewhere: Sequence[Mapping[str, Any] | None] = (),
    now: datetime.datetime,
) -> Identities:
    """The data that the Secrets must have now: what they hold where that is good, else renewed.

    `cloud_names` are the cloud's SANs, the hosts of all its pipeline stages. With `cloud_calls` its certificate is a
    client's too, because each stage calls the next; whoever changes that changes the names as well. `elsewhere` are the
    Secrets of devices in other clusters, None for one that cannot be read.
    """
    ca_data = _ensure_ca(_data(ca), topology=topology, elsewhere=elsewhere, now=now)
    signer = _pair(ca_data, "tls")
    assert signer is not None
    bundle = _decode(ca_data["ca.crt"])
    cloud_usages = [_SERVER, _CLIENT] if cloud_calls else [_SERVER]
    cloud_data = _ensure_leaf(_data(cloud), signer, bundle, names=cloud_names, usages=cloud_usages, now=now)
    device_names = (device_name(topology),)
    device_data = _ensure_leaf(_data(device), signer, bundle, names=device_names, usages=[_CLIENT], now=now)
    expiries = [x509.load_pem_x509_certificate(_decode(each["tls.crt"]).encode()) for each in (cloud_data, device_data)]
    expires = min(each.not_valid_after_utc for each in expiries)
    return Identities(ca=ca_data, cloud=cloud_data, device=device_data, expires=expires)


def device_name(topology: str) -> str:
    """The name in the devices' certificate."""
    return f"device.{topology}.milliner.internal"


def identity(secret: Mapping[str, Any] | None) -> Identity | None:
    """What a Secret holds, whoever filled it; None where something is missing or damaged. Dates are not looked at."""
    data = _data(secret)
    pair, ca = _pair(data, "tls"), _decode(data.get(CA_KEY, ""))
    return Identity(pair.certificate, ca, pair.parsed.not_valid_after_utc) if pair is not None and ca else None


def tier_data(secret: Mapping[str, Any] | None) -> Data:
    """What pods read of a Secret's data."""
    return {key: value for key, value in _data(secret).items() if key in _TIER_KEYS}


def is_trusted(chain: str, *, roots: str) -> bool:
    """Whether one of the `roots` has issued a certificate of the chain (PEM, each issued by the next)."""
    try:
        trusted = x509.load_pem_x509_certificates(roots.encode())
        links = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        return False
    return any(_is_issued(link, by=root) for link in links for root in trusted)


def renewal_due(certificate: x509.Certificate, now: datetime.datetime) -> bool:
    """Whether two thirds of a certificate's life are over."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= start + (end - start) * 2 / 3


def _ensure_ca(
    data: Data, *, topology: str, elsewhere: Sequence[Mapping[str, Any] | None], now: datetime.datetime
) -> Data:
    current, following = (_valid(_pair(data, prefix), now) for prefix in ("tls", "next"))
    if current is None:
        current, following = following or _new_ca(topology, now=now), None
    if following is None and renewal_due(current.parsed, now):
        following = _new_ca(topology, now=now)
    bundle = [current.certificate]
    if following is not None:
        age = now - following.parsed.not_valid_before_utc - _BACKDATED
        if age >= _PUBLISH and all(_trusts(each, following) for each in elsewhere):
            bundle, current, following = [following.certificate, current.certificate], following, None
        else:
            bundle.append(following.certificate)
    trusted = [*bundle, *(each for each in _split(_decode(data.get("ca.crt", ""))) if each not in bundle)]
    living = [each for each in trusted if _is_living(each, now)]
    kept = {"tls.crt": current.certificate, "tls.key": current.key, "ca.crt": "".join(living)}
    if following is not None:
        kept |= {"next.crt": following.certificate, "next.key": following.key}
    return {key: _encode(value) for key, value in kept.items()}


def _valid(pair: Pair | None, now: datetime.datetime) -> Pair | None:
    """A pair within its dates; one of the future was made while this clock was wrong."""
    if pair is None or not pair.parsed.not_valid_before_utc <= now < pair.parsed.not_valid_after_utc:
        return None
    return pair


def _trusts(secret: Mapping[str, Any] | None, ca: Pair) -> bool:
    return ca.certificate.strip() in _decode(_data(secret).get(CA_KEY, ""))


def _ensure_leaf(
    data: Data,
    signer: Pair,
    bundle: str,
    *,
    names: Sequence[str],
    usages: Sequence[x509.ObjectIdentifier],
    now: datetime.datetime,
) -> Data:
    pair = _valid(_pair(data, "tls"), now)
    if pair is None or not _holds(pair.parsed, signer.parsed, names=names, now=now):
        pair = _new_leaf(signer, names=names, usages=usages, now=now)
    return {"tls.crt": _encode(pair.certificate), "tls.key": _encode(pair.key), "ca.crt": _encode(bundle)}


def _holds(leaf: x509.Certificate, signer: x509.Certificate, *, names: Sequence[str], now: datetime.datetime) -> bool:
    if not _is_issued(leaf, by=signer):
        return False
    alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return alternatives.get_values_for_type(x509.DNSName) == list(names) and not renewal_due(leaf, now)


def _is_issued(certificate: x509.Certificate, *, by: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except Exception:  # the library raises several kinds; each means: not this CA's
        return False
    return True


def _new_ca(topology: str, *, now: datetime.datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"milliner {topology}"[:64])])
    builder = _builder(name, name, key.public_key(), start=now - _BACKDATED, end=now + CA_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return _signed(builder, subject_key=key, signing_key=key)


def _new_leaf(
    signer: Pair, *, names: Sequence[str], usages: Sequence[x509.ObjectIdentifier], now: datetime.datetime
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    signing_key = serialization.load_pem_private_key(signer.key.encode(), password=None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    end = min(now + LEAF_LIFE, signer.parsed.not_valid_after_utc)
    builder = _builder(subject, signer.parsed.subject, key.public_key(), start=now - _BACKDATED, end=end)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    builder = builder.add_extension(authority, critical=False)
    return _signed(builder, subject_key=key, signing_key=signing_key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    start: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=public_key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(
    builder: x509.CertificateBuilder,
    *,
    subject_key: ec.EllipticCurvePrivateKey,
    signing_key: ec.EllipticCurvePrivateKey,
) -> Pair:
    certificate = builder.sign(signing_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key = subject_key.private_bytes(encoding, form, serialization.NoEncryption()).decode()
    return Pair(certificate=certificate, key=key)


def _pair(data: Data, prefix: str) -> Pair | None:
    """The pair in a Secret's data, or None where it is missing or damaged."""
    certificate, key = _decode(data.get(f"{prefix}.crt", "")), _decode(data.get(f"{prefix}.key", ""))
    if not certificate or not key:
        return None
    pair = Pair(certificate=certificate, key=key)
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
        matches = pair.parsed.public_key() == private.public_key()
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm):  # TypeError: the key is encrypted
        return None
    return pair if matches else None


def _data(secret: Mapping[str, Any] | None) -> Data:
    return (secret or {}).get("data") or {}


def _split(bundle: str) -> list[str]:
    end = "-----END CERTIFICATE-----\n"
    return [part + end for part in bundle.split(end) if part.strip()]


def _is_living(certificate: str, now: datetime.datetime) -> bool:
    """False for what is no certificate too: what somebody wrote beside them is dropped."""
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc > now
    except ValueError:
        return False


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    try:
        return base64.b64decode(text).decode()
    except ValueError:
        return ""
