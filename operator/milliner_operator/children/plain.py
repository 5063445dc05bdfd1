"""Children that only hold data: ServiceAccounts, ConfigMaps, TLS Secrets. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from milliner.contract import names
from milliner.contract.operations import IssuerRef
from milliner_operator import kinds
from milliner_operator.children import common, pod

FACTS_KEY = "facts.json"
FACTS_AT = "inspectedAt"
CLUSTERS_KEY = "clusters.json"

# `certificates.LEAF_LIFE` and a third of it, as Go writes durations: an API server that rewrites them changes nothing.
_LEAF_LIFE, _RENEW_BEFORE = "720h0m0s", "240h0m0s"
_MAX_COMMON_NAME = 64  # bytes, X.509


def service_account(scope: common.Scope, name: str, *, role: str, pool: str | None = None) -> dict[str, Any]:
    """An identity without any permission and without a token in the pods."""
    return common.manifest(scope, kinds.SERVICE_ACCOUNT, name, role=role, pool=pool, automountServiceAccountToken=False)


def role_config_map(
    scope: common.Scope, name: str, *, role: str, config: str, pool: str | None = None, revision: str = ""
) -> dict[str, Any]:
    """A role's configuration file; with `revision` that of one revision alone."""
    found = common.manifest(scope, kinds.CONFIG_MAP, name, role=role, pool=pool, data={pod.CONFIG_KEY: config})
    if revision:
        found["metadata"]["labels"][names.LABEL_REVISION] = revision
    return found


def endpoints_map(scope: common.Scope, name: str, *, pool: str, endpoints: Sequence[str]) -> dict[str, Any]:
    """Where devices of another cluster reach the cloud: a file that they read again, whatever their revision."""
    data = {pod.ENDPOINTS_KEY: "".join(f"{each}\n" for each in endpoints)}
    return common.manifest(scope, kinds.CONFIG_MAP, name, role=names.ROLE_DEVICE, pool=pool, data=data)


def facts_map(scope: common.Scope, name: str, *, line: str, at: str) -> dict[str, Any]:
    """What the inspect Job found, and when."""
    data = {FACTS_KEY: line, FACTS_AT: at}
    return common.manifest(scope, kinds.CONFIG_MAP, name, role=common.ROLE_SHARED, data=data)


def clusters_map(scope: common.Scope, name: str, *, clusters: list[tuple[str, str]]) -> dict[str, Any]:
    """The other clusters that may hold children: what is to be cleaned up there is known after a restart too."""
    data = {CLUSTERS_KEY: json.dumps(clusters)}
    return common.manifest(scope, kinds.CONFIG_MAP, name, role=common.ROLE_SHARED, data=data)


def tls_secret(scope: common.Scope, name: str, *, data: Mapping[str, str]) -> dict[str, Any]:
    """Certificate, key and trusted CAs of a tier, or the CA itself."""
    return common.manifest(scope, kinds.SECRET, name, role=common.ROLE_TLS, type="Opaque", data=dict(data))


def shared_secret(
    scope: common.Scope,
    name: str,
    *,
    owners: Sequence[Mapping[str, Any]],
    data: Mapping[str, str] | None,
    annotations: Mapping[str, str] | None,
) -> dict[str, Any]:
    """A Secret that somebody else fills: owned, but not controlled. Without `data` theirs is left as it is."""
    found = common.manifest(scope, kinds.SECRET, name, role=common.ROLE_TLS)
    if data:
        found["data"] = dict(data)
    found["metadata"]["labels"] |= {common.LABEL_TOPOLOGY_UID: scope.uid}
    del found["metadata"]["ownerReferences"]
    if owners:
        found["metadata"]["ownerReferences"] = list(owners)
    if annotations:
        found["metadata"]["annotations"] = dict(annotations)
    return found


def certificate(
    scope: common.Scope, name: str, *, issuer: IssuerRef, dns_names: Sequence[str], usages: Sequence[str]
) -> dict[str, Any]:
    """cert-manager's request for the Secret of the same name, with the lives of the operator's own leaves."""
    spec: dict[str, Any] = {
        "secretName": name,
        "secretTemplate": {
            "labels": common.labels(scope, role=common.ROLE_TLS) | {common.LABEL_TOPOLOGY_UID: scope.uid}
        },
        "issuerRef": {"name": issuer.name, "kind": issuer.kind, "group": issuer.group},
        "dnsNames": list(dns_names),
        "usages": list(usages),
        "duration": _LEAF_LIFE,
        "renewBefore": _RENEW_BEFORE,
        "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        "revisionHistoryLimit": 1,  # its default was to keep all requests for ever
    }
    if len(dns_names[0]) <= _MAX_COMMON_NAME:
        spec["commonName"] = dns_names[0]  # some issuers ask for one
    return common.manifest(scope, kinds.CERTIFICATE, name, role=common.ROLE_TLS, spec=spec)
