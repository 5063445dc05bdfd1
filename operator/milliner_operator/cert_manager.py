"""Certificates that cert-manager issues: what is wanted of it, and what TLSReady says of what it has done. Pure.

1. Of each tier a Secret is made first, without data. Whose Secret of that name it is turns out then: cert-manager would
   overwrite anybody's.
2. Where the Secret is the topology's, a Certificate with its name asks cert-manager to fill it. What the operator's own
   CA has signed stays in it until then, marked as issued by somebody else: cert-manager would take it for its own.
3. Of a Secret that is filled the operator keeps only labels and owner, under other fields than cert-manager's.
Tiers are planned once both Secrets are filled. Nothing watches Certificates: events of Secrets and later looks tell.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping

from milliner.contract import kinds as spec_kinds
from milliner.contract import topology
from milliner_operator import certificates, executor, kinds, observed, tiers
from milliner_operator import plan as plans
from milliner_operator.certificates import Identity
from milliner_operator.children import common, plain
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import Manifest, Ref, World

# What cert-manager writes on a Secret that it has filled, and what makes it issue anew where it differs.
ISSUED_FOR = "cert-manager.io/certificate-name"
_ISSUED_BY = "cert-manager.io/issuer-"

UNKNOWN_KIND = (
    "the API server knows no kind Certificate of cert-manager.io/v1: install cert-manager, or set tls.mode: Managed"
)


def is_filled(secret: Manifest | None) -> bool:
    """Whether cert-manager has written to a Secret."""
    return secret is not None and ISSUED_FOR in (secret["metadata"].get("annotations") or {})


def are_possible(mode: str, objects: Mapping[Ref, Manifest], *, topology_name: str) -> bool:
    """Whether a topology may have Certificates: those of another mode are left until the Secrets have changed hands."""
    if mode != spec_kinds.TlsMode.MANAGED:
        return True
    ca, *tier_secrets = (objects.get(("Secret", each)) for each in tiers.tls_names(topology_name))
    return ca is None or any(is_filled(each) for each in tier_secrets)


def plan(wanted: topology.InferenceTopology, *, scope: common.Scope, world: World, now: datetime.datetime) -> plans.Tls:
    """What is wanted for mutual TLS with mode CertManager."""
    _, cloud, device = tiers.tls_names(wanted.name)
    children = [_secret(scope, name, world.get("Secret", name)) for name in (cloud, device)]
    for manifest in (_cloud_certificate(wanted, scope, cloud), _device_certificate(wanted, scope, device)):
        secret = world.get("Secret", manifest["metadata"]["name"])
        if not world.certificates_error and secret is not None and executor.owned(secret, scope.uid):
            children.append(manifest)
    secrets = [world.get("Secret", name) for name in (cloud, device)]
    filled = all(certificates.identity(each) is not None for each in secrets)
    return plans.Tls(
        on=True,
        children=tuple(children),
        ready=_ready(wanted, world, now=now, until=now + datetime.timedelta(seconds=scope.settings.resync_s)),
        device=certificates.tier_data(secrets[1]) if filled else None,
    )


def _secret(scope: common.Scope, name: str, live: Manifest | None) -> Manifest:
    """A tier's Secret but for what cert-manager writes into it; see the head of this module."""
    metadata = (live or {}).get("metadata") or {}
    others = [each for each in metadata.get("ownerReferences") or () if each.get("uid") != scope.uid]
    controlled = any(each.get("controller") for each in others)  # cert-manager can be told to make it the Certificate's
    ours = None if live is None or is_filled(live) else live.get("data")
    issuer = {"name": scope.topology, "kind": kinds.TOPOLOGY.kind, "group": kinds.TOPOLOGY.group}
    return plain.shared_secret(
        scope,
        name,
        owners=() if controlled else (common.owner_reference(scope),),
        data=ours,
        annotations={f"{_ISSUED_BY}{key}": value for key, value in issuer.items()} if ours else None,
    )


def _cloud_certificate(wanted: topology.InferenceTopology, scope: common.Scope, name: str) -> Manifest:
    usages = ["server auth", *(["client auth"] if wanted.spec.cloud.pipeline_stages > 1 else [])]
    return _certificate(wanted, scope, name, dns_names=tiers.cloud_certificate_names(wanted), usages=usages)


def _device_certificate(wanted: topology.InferenceTopology, scope: common.Scope, name: str) -> Manifest:
    names = (certificates.device_name(wanted.name),)
    return _certificate(wanted, scope, name, dns_names=names, usages=["client auth"])


def _certificate(
    wanted: topology.InferenceTopology, scope: common.Scope, name: str, *, dns_names: tuple[str, ...], usages: list[str]
) -> Manifest:
    issuer = wanted.spec.tls.issuer_ref
    assert issuer is not None  # a rule of the topology
    return plain.certificate(scope, name, issuer=issuer, dns_names=dns_names, usages=["digital signature", *usages])


def _ready(
    wanted: topology.InferenceTopology, world: World, *, now: datetime.datetime, until: datetime.datetime
) -> Condition:
    """TLSReady: the first thing that is wrong, or until when both certificates are valid. It holds `until` the next
    look at the latest: what expires before is not ready now."""
    if world.certificates_error:
        return _not_ready(world.certificates_error)
    _, cloud, device = tiers.tls_names(wanted.name)
    found: dict[str, Identity] = {}
    for name in (cloud, device):
        identity = _requested(world, name) or _issued(wanted, world.get("Secret", name), name)
        if isinstance(identity, Condition):
            return identity
        if identity.expires <= until:
            verb = "expired" if identity.expires <= now else "is not renewed and expires"
            return _not_ready(f"Secret {name}: its certificate {verb} at {observed.stamp(identity.expires)}")
        found[name] = identity
    for name, other in ((cloud, device), (device, cloud)):
        if not certificates.is_trusted(found[name].certificate, roots=found[other].ca):
            return _not_ready(
                f"Secret {name}: its certificate is of no CA in Secret {other}: both must come from one CA, as the "
                "tiers verify one another; an issuer of type SelfSigned has none"
            )
    expires = min(each.expires for each in found.values())
    return Condition(Type.TLS_READY, True, Reason.CERTIFICATES_VALID, f"valid until {observed.stamp(expires)}")


def _requested(world: World, name: str) -> Condition | None:
    """What is wrong with a Certificate as cert-manager tells it."""
    certificate = world.get(kinds.CERTIFICATE.kind, name)
    if certificate is None:
        return _not_ready(f"Certificate {name} is about to be made", status=None)
    ready, generation = observed.condition(certificate, "Ready"), certificate["metadata"].get("generation")
    if not ready or ready.get("observedGeneration", generation) != generation:
        return _not_ready(
            f"Certificate {name}: no answer of cert-manager yet; if it lasts, see that it runs", status=None
        )
    if ready.get("status") == "True":
        return None
    issuing = observed.condition(certificate, "Issuing")
    failed = issuing.get("status") == "False" and issuing.get("message")
    said = failed or ready.get("message") or ready.get("reason")
    return _not_ready(f"Certificate {name}: {said}")


def _issued(wanted: topology.InferenceTopology, secret: Manifest | None, name: str) -> Condition | Identity:
    """What the Secret of a Certificate that is ready holds, or what is wrong with it."""
    if secret is None:
        return _not_ready(f"Secret {name} of Certificate {name} is not there")
    if not is_filled(secret):
        return _not_ready(f"Secret {name} is not filled by Certificate {name} yet", status=None)
    if not (secret.get("data") or {}).get(certificates.CA_KEY):
        issuer = wanted.spec.tls.issuer_ref
        assert issuer is not None  # a rule of the topology
        return _not_ready(
            f"Secret {name} of Certificate {name} has no {certificates.CA_KEY}: {issuer.kind} {issuer.name} gives no "
            "CA, and the tiers need it to verify one another; use an issuer that does, such as a CA issuer"
        )
    identity = certificates.identity(secret)
    if identity is None:
        return _not_ready(f"Secret {name} of Certificate {name} holds no certificate with its key")
    return identity


def _not_ready(message: str, *, status: bool | None = False) -> Condition:
    return Condition(Type.TLS_READY, status, Reason.CERTIFICATE_NOT_READY, message)
