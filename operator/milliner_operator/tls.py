"""Mutual TLS as the topology's mode has it: which Secrets and Certificates are wanted, and what TLSReady says. Pure.

Managed: the operator's own CA (`certificates`). CertManager: `cert_manager`. Disabled, and without a cloud tier:
nothing. What CertManager leaves behind goes first: Certificates, so that nobody fills a Secret again, then the Secrets
that cert-manager has written to, since what others wrote into an object stays there until it is made anew.
"""

from __future__ import annotations

import datetime

from milliner.contract import kinds as spec_kinds
from milliner.contract import names, topology
from milliner_operator import cert_manager, kinds, observed, tiers
from milliner_operator import plan as plans
from milliner_operator.children import common, plain
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import Ref, World

# Within two minutes kubelets bring a changed Secret to its pods: they look at each every 60 to 90 s.
_DELIVERED = datetime.timedelta(seconds=120)


def plan(wanted: topology.InferenceTopology, *, scope: common.Scope, world: World, now: datetime.datetime) -> plans.Tls:
    """What is wanted for mutual TLS, and what goes for it."""
    if wanted.spec.tls.mode is spec_kinds.TlsMode.CERT_MANAGER and tiers.runs_cloud(wanted):
        return cert_manager.plan(wanted, scope=scope, world=world, now=now)
    certificates = tuple(ref for ref in world.objects if ref[0] == kinds.CERTIFICATE.kind)
    if world.identities is None:
        return plans.Tls(unwanted=certificates)
    found = world.identities
    pairs = zip(tiers.tls_names(wanted.name), (found.ca, found.cloud, found.device), strict=True)
    return plans.Tls(
        on=True,
        children=tuple(plain.tls_secret(scope, name, data=data) for name, data in pairs),
        unwanted=(*certificates, *_written_by_others(wanted, world)),
        ready=_undelivered(wanted, world, now)
        or Condition(Type.TLS_READY, True, Reason.CERTIFICATES_VALID, f"valid until {observed.stamp(found.expires)}"),
        device=found.device,
    )


def _undelivered(wanted: topology.InferenceTopology, world: World, now: datetime.datetime) -> Condition | None:
    """TLSReady=False while cloud pods may run that have nothing of the Secrets: all three were deleted and made anew,
    so that nobody who has the new ones trusts anybody who has the old."""
    secrets = [world.objects.get(("Secret", name)) for name in tiers.tls_names(wanted.name)]
    stamps = [str(each["metadata"].get("creationTimestamp") or "") if each else "" for each in secrets]
    made = min(stamp or observed.stamp(now) for stamp in stamps)
    deployments = [names.cloud_name(wanted.name, stage=stage) for stage in tiers.stages(wanted)]
    rolled_out = [
        observed.condition(world.objects.get((kinds.DEPLOYMENT.kind, name)), "Progressing").get("lastUpdateTime")
        for name in deployments
    ]
    until = datetime.datetime.fromisoformat(made) + _DELIVERED
    if now >= until or not any(each and each < made for each in rolled_out):
        return None
    message = (
        f"Secrets {', '.join(tiers.tls_names(wanted.name))} were made anew: pods that run have them by "
        f"{observed.stamp(until)} at the latest"
    )
    return Condition(Type.TLS_READY, False, Reason.CERTIFICATE_NOT_READY, message)


def _written_by_others(wanted: topology.InferenceTopology, world: World) -> tuple[Ref, ...]:
    refs = [("Secret", name) for name in tiers.tls_names(wanted.name)]
    return tuple(ref for ref in refs if cert_manager.is_filled(world.objects.get(ref)))
