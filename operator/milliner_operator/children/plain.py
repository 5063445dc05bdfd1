"""Children that only hold data: ServiceAccounts, ConfigMaps, TLS Secrets. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from milliner_operator import kinds
from milliner_operator.children import common, pod

FACTS_KEY = "facts.json"
FACTS_AT = "inspectedAt"
CLUSTERS_KEY = "clusters.json"


def service_account(scope: common.Scope, name: str, *, role: str, pool: str | None = None) -> dict[str, Any]:
    """An identity without any permission and without a token in the pods."""
    return common.manifest(scope, kinds.SERVICE_ACCOUNT, name, role=role, pool=pool, automountServiceAccountToken=False)


def role_config_map(
    scope: common.Scope, name: str, *, role: str, config: str, pool: str | None = None
) -> dict[str, Any]:
    """A role's configuration file."""
    return common.manifest(scope, kinds.CONFIG_MAP, name, role=role, pool=pool, data={pod.CONFIG_KEY: config})


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
    return common.manifest(scope, kinds.SECRET, name, role=common.ROLE_SHARED, type="Opaque", data=dict(data))
