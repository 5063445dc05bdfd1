"""Mutual TLS as the topology's mode has it: which Secrets and Certificates are wanted, and what TLSReady says. Pure.

Managed: the operator's own CA (`certificates`). CertManager: `cert_manager`. Disabled, and without a cloud tier:
nothing. What CertManager leaves behind goes first: Certificates, so that nobody fills a Secret again, then the Secrets
that cert-manager has written to, since what others wrote into an object stays there until it is made anew.
"""

from __future__ import annotations

import datetime

from milliner.contract import kinds as spec_kinds
from milliner.contract import topology
from milliner_operator import cert_manager, kinds, tiers
from milliner_operator import plan as plans
from milliner_operator.children import common, plain
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import Ref, World


def plan(wanted: topology.InferenceTopology, *, scope: common.Scope, world: World, now: datetime.datetime) -> plans.Tls:
    """What is wanted for mutual TLS, and what goes for it."""
    if wanted.spec.tls.mode is spec_kinds.TlsMode.CERT_MANAGER and tiers.runs_cloud(wanted):
        return cert_manager.plan(wanted, scope=scope, world=world, now=now)
    certificates = tuple(ref for ref in world.objects if ref[0] == kinds.CERTIFICATE.kind)
    if world.identities is None:
        return plans.Tls(unwanted=certificates)
    found = world.identities
    pairs = zip(tiers.tls_names(wanted.name), (found.ca, found.cloud, found.device), strict=True)
    until = found.expires.strftime("%Y-%m-%dT%H:%M:%SZ")
    return plans.Tls(
        on=True,
        children=tuple(plain.tls_secret(scope, name, data=data) for name, data in pairs),
        unwanted=(*certificates, *_written_by_others(wanted, world)),
        ready=Condition(Type.TLS_READY, True, Reason.CERTIFICATES_VALID, f"valid until {until}"),
        device=found.device,
    )


def _written_by_others(wanted: topology.InferenceTopology, world: World) -> tuple[Ref, ...]:
    refs = [("Secret", name) for name in tiers.tls_names(wanted.name)]
    return tuple(ref for ref in refs if cert_manager.is_filled(world.objects.get(ref)))
