"""Certificates: what they say, that the tiers verify one another, when they are renewed, how a CA follows another."""

from __future__ import annotations

import base64
import datetime
import pathlib
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography import x509
from tests.unit.milliner_operator import worlds

from milliner_operator import certificates
from milliner_operator.certificates import Data, Identities

NAMES = ("chat-cloud.default.svc", "chat-cloud")


def ensured(
    before: Identities | None = None,
    *,
    days: float = 0.0,
    names: tuple[str, ...] = NAMES,
    elsewhere: Sequence[dict[str, Any] | None] = (),
) -> Identities:
    def secret(data: Data) -> dict[str, object]:
        return {"data": dict(data)}

    return certificates.ensure(
        ca=secret(before.ca) if before else None,
        cloud=secret(before.cloud) if before else None,
        device=secret(before.device) if before else None,
        topology="chat",
        cloud_names=names,
        elsewhere=elsewhere,
        now=worlds.NOW + datetime.timedelta(days=days),
    )


def text(data: Data, key: str) -> str:
    return base64.b64decode(data[key]).decode()


def leaf(data: Data) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text(data, "tls.crt").encode())


def test_the_second_look_changes_nothing() -> None:
    first = ensured()
    assert ensured(first) == first
    assert ensured(first, days=19) == first


def test_leaves_are_renewed_after_two_thirds_of_their_life_and_the_ca_stays() -> None:
    first = ensured()
    later = ensured(first, days=20.1)
    assert later.ca == first.ca
    assert leaf(later.cloud) != leaf(first.cloud)
    assert leaf(later.cloud).not_valid_after_utc > leaf(first.cloud).not_valid_after_utc


def test_other_names_or_a_damaged_secret_renew_a_leaf() -> None:
    first = ensured()
    renamed = ensured(first, names=("other.default.svc",))
    found = leaf(renamed.cloud).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert found.value.get_values_for_type(x509.DNSName) == ["other.default.svc"]
    assert renamed.device == first.device
    damaged = Identities(first.ca, {**first.cloud, "tls.key": first.device["tls.key"]}, first.device, first.expires)
    assert leaf(ensured(damaged).cloud) != leaf(first.cloud)


def test_what_somebody_wrote_beside_the_certificates_is_dropped() -> None:
    """Junk behind the last block ended every pass over the topology."""
    first = ensured()
    bundle = text(first.ca, "ca.crt") + "-----BEGIN CERTIFICATE-----\njunk\n"
    ca = {**first.ca, "ca.crt": base64.b64encode(bundle.encode()).decode()}
    assert ensured(Identities(ca, first.cloud, first.device, first.expires)) == first


def test_a_next_ca_is_trusted_before_it_signs_and_the_old_one_after() -> None:
    """Pods get a changed Secret minutes later: at no moment may one tier have a leaf that the other does not trust."""
    now = ensured()
    published = ensured(now, days=244)
    old, new = text(now.ca, "tls.crt"), text(published.ca, "next.crt")
    assert text(published.ca, "tls.crt") == old
    assert text(published.cloud, "ca.crt") == old + new
    leaf(published.cloud).verify_directly_issued_by(x509.load_pem_x509_certificate(old.encode()))
    assert ensured(published, days=244.02) == published
    signing = ensured(published, days=244.1)
    assert text(signing.ca, "tls.crt") == new
    assert text(signing.device, "ca.crt") == new + old
    leaf(signing.cloud).verify_directly_issued_by(x509.load_pem_x509_certificate(new.encode()))
    assert text(ensured(signing, days=366).ca, "ca.crt") == new


def test_a_next_ca_does_not_sign_before_every_other_cluster_has_it() -> None:
    """A cluster that was silent for the hour got a cloud certificate that its devices did not trust."""
    now = ensured()
    published = ensured(now, days=244)
    old, new = text(now.ca, "tls.crt"), text(published.ca, "next.crt")
    behind, ahead = {"data": dict(now.device)}, {"data": dict(published.device)}
    assert ensured(published, days=245, elsewhere=[ahead, behind]) == published
    assert ensured(published, days=245, elsewhere=[ahead, None]).ca == published.ca
    assert text(ensured(published, days=245, elsewhere=[ahead]).ca, "tls.crt") == new
    late = ensured(published, days=366, elsewhere=[None])
    assert text(late.ca, "tls.crt") == new, "the old one has expired"
    assert old not in text(late.ca, "ca.crt")


def test_certificates_of_the_future_are_made_anew() -> None:
    """The clock was years ahead when they were made; nobody would take them until then."""
    ahead = ensured(days=4000)
    found = ensured(ahead)
    assert leaf(found.cloud).not_valid_before_utc <= worlds.NOW
    assert x509.load_pem_x509_certificate(text(found.ca, "tls.crt").encode()).not_valid_before_utc <= worlds.NOW
    assert ensured(found) == found


def test_an_expired_ca_is_replaced_at_once() -> None:
    first = ensured()
    later = ensured(first, days=400)
    assert text(later.ca, "tls.crt") != text(first.ca, "tls.crt")
    assert leaf(later.cloud).not_valid_after_utc > worlds.NOW + datetime.timedelta(days=400)


def contexts(identities: Identities, folder: pathlib.Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Server and client contexts as strict as OpenSSL can be told to be."""
    found = []
    for name, data, purpose in (
        ("cloud", identities.cloud, ssl.Purpose.CLIENT_AUTH),
        ("device", identities.device, ssl.Purpose.SERVER_AUTH),
    ):
        for key in ("tls.crt", "tls.key", "ca.crt"):
            (folder / f"{name}-{key}").write_text(text(data, key))
        context = ssl.create_default_context(purpose, cafile=str(folder / f"{name}-ca.crt"))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(folder / f"{name}-tls.crt", folder / f"{name}-tls.key")
        found.append(context)
    return found[0], found[1]


@pytest.mark.parametrize("server_name", [NAMES[0], "elsewhere.default.svc"])
def test_both_tiers_verify_one_another(tmp_path: pathlib.Path, server_name: str) -> None:
    made = certificates.ensure(
        ca=None, cloud=None, device=None, topology="chat", cloud_names=NAMES, now=datetime.datetime.now(datetime.UTC)
    )
    server, client = contexts(made, tmp_path)
    one, other = socket.socketpair()

    def answer() -> None:
        try:
            with server.wrap_socket(one, server_side=True) as secured:
                secured.sendall(secured.recv(4))
        except OSError:
            one.close()  # the client refused the name

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        if server_name == NAMES[0]:
            with client.wrap_socket(other, server_hostname=server_name) as secured:
                secured.sendall(b"ping")
                assert secured.recv(4) == b"ping"
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                client.wrap_socket(other, server_hostname=server_name)
    finally:
        other.close()
        thread.join(timeout=10)
    assert not thread.is_alive()
