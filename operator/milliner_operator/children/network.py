"""Services and NetworkPolicies: only the declared edges, and name resolution. Pure.

A policy sees a packet after the Service's address was replaced: its port is that of the pod behind, which no URL tells.
So to hosts inside the cluster any port of their namespace's pods is open, and to others those that URLs name.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import Any

from milliner.contract import names
from milliner_operator import kinds
from milliner_operator.children import common

# 5353: where the pods of OpenShift's resolver listen.
_DNS = {"ports": [{"protocol": protocol, "port": port} for port in (53, 5353) for protocol in ("UDP", "TCP")]}
_DEFAULT_PORTS = {"http": 80, "https": 443}
_WEB_PORTS = (80, 443)  # where sources' redirects lead
_NAMESPACE = "kubernetes.io/metadata.name"  # a label of every namespace


def headless_service(scope: common.Scope, name: str, *, role: str) -> dict[str, Any]:
    """One address per pod of the cloud tier, or of a stage of it, that is ready."""
    spec = {
        "clusterIP": "None",
        "selector": names.labels(scope.topology, role=role),
        "ports": [_service_port("grpc", common.GRPC_PORT)],
    }
    return common.manifest(scope, kinds.SERVICE, name, role=role, spec=spec)


def external_service(scope: common.Scope, name: str, *, type_: str) -> dict[str, Any]:
    """The way in for device pools of other clusters: LoadBalancer or NodePort."""
    spec = {
        "type": type_,
        "selector": names.labels(scope.topology, role=names.ROLE_CLOUD),
        "ports": [_service_port("grpc", common.GRPC_PORT)],
    }
    return common.manifest(scope, kinds.SERVICE, name, role=names.ROLE_CLOUD, spec=spec)


def device_service(scope: common.Scope, name: str, *, pool: str, port: int) -> dict[str, Any]:
    """The API of a pool's devices behind one address."""
    spec = {
        "type": "ClusterIP",
        "selector": names.labels(scope.topology, role=names.ROLE_DEVICE, pool=pool),
        "ports": [_service_port("http", port)],
    }
    return common.manifest(scope, kinds.SERVICE, name, role=names.ROLE_DEVICE, pool=pool, spec=spec)


def cloud_policy(
    scope: common.Scope,
    name: str,
    *,
    role: str,
    caller: str | None,
    callee: str | None,
    sources: Sequence[str],
    otlp_endpoint: str,
) -> dict[str, Any]:
    """In: pods of role `caller` to gRPC (None, where an external Service leads there: anyone, mutual TLS decides);
    health and metrics. Out: the next stage's pods, of role `callee`, if there is one."""
    grpc: dict[str, Any] = {"ports": [_port(common.GRPC_PORT)]}
    if caller is not None:
        grpc["from"] = [_peer(scope, caller)]
    egress = [] if callee is None else [{"to": [_peer(scope, callee)], "ports": [_port(common.GRPC_PORT)]}]
    return _policy(
        scope,
        name,
        role=role,
        ingress=[grpc, {"ports": [_port(common.HEALTH_PORT)]}],
        egress=[*egress, *_outgoing(sources=sources, others=(otlp_endpoint,))],
    )


def device_policy(
    scope: common.Scope,
    name: str,
    *,
    pool: str,
    api_port: int | None,
    cloud_ports: Sequence[int] | None,
    engine_url: str,
    sources: Sequence[str],
    otlp_endpoint: str,
) -> dict[str, Any]:
    """In: the API, health and metrics. Out: the cloud tier (`cloud_ports`: of another cluster, anywhere; None: there is
    none), or the server at `engine_url` that takes its place."""
    ingress = [{"ports": [_port(each)]} for each in (api_port, common.HEALTH_PORT) if each is not None]
    cloud: list[dict[str, Any]] = []
    if cloud_ports:
        cloud = [{"ports": [_port(each) for each in sorted(set(cloud_ports))]}]
    elif cloud_ports is not None:
        cloud = [{"to": [_peer(scope, names.ROLE_CLOUD)], "ports": [_port(common.GRPC_PORT)]}]
    egress = [*cloud, *_outgoing(sources=sources, others=(engine_url, otlp_endpoint))]
    return _policy(scope, name, role=names.ROLE_DEVICE, pool=pool, ingress=ingress, egress=egress)


def inspect_policy(scope: common.Scope, name: str, *, sources: Sequence[str]) -> dict[str, Any]:
    """In: nothing. Out: the source, if it is on the network."""
    return _policy(scope, name, role=common.ROLE_INSPECT, ingress=[], egress=_outgoing(sources=sources))


def _policy(
    scope: common.Scope,
    name: str,
    *,
    role: str,
    pool: str | None = None,
    ingress: list[dict[str, Any]],
    egress: list[dict[str, Any]],
) -> dict[str, Any]:
    spec = {
        "podSelector": {"matchLabels": names.labels(scope.topology, role=role, pool=pool)},
        "policyTypes": ["Ingress", "Egress"],
        **({"ingress": ingress} if ingress else {}),
        "egress": egress,
    }
    return common.manifest(scope, kinds.NETWORK_POLICY, name, role=role, pool=pool, spec=spec)


def _outgoing(*, sources: Sequence[str], others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """To whom the URLs lead; empty ones lead to nobody."""
    urls = [*sources, *filter(None, others)]
    ports = {*(_WEB_PORTS if sources else ()), *(_url_port(each) for each in urls)}
    inside = {found for each in urls if (found := _namespace_of(each)) is not None}
    return [
        _DNS,
        *([{"ports": [_port(each) for each in sorted(ports)]}] if ports else []),
        *([{"to": [_pods_of(each) for each in sorted(inside)]}] if inside else []),
    ]


def _url_port(text: str) -> int:
    """The port of a URL; of a source of another kind, such as hf://, that of https."""
    url = urllib.parse.urlsplit(text)
    if url.scheme in _DEFAULT_PORTS:
        return url.port or _DEFAULT_PORTS[url.scheme]
    return _DEFAULT_PORTS["https"]


def _namespace_of(text: str) -> str | None:
    """The namespace of a URL's host in this cluster, '' for the pods' own; None for a host outside."""
    url = urllib.parse.urlsplit(text)
    parts = (url.hostname or "").split(".")
    if url.scheme not in _DEFAULT_PORTS or not parts[0] or ":" in parts[0]:
        return None
    if len(parts) == 1:
        return ""
    return parts[parts.index("svc") - 1] if "svc" in parts[2:] else None


def _pods_of(namespace: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {_NAMESPACE: namespace}}} if namespace else {"podSelector": {}}


def _peer(scope: common.Scope, role: str) -> dict[str, Any]:
    labels = {names.LABEL_TOPOLOGY: names.child_name(scope.topology), names.LABEL_ROLE: role}
    return {"podSelector": {"matchLabels": labels}}


def _port(number: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": number}


def _service_port(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "protocol": "TCP", "port": port, "targetPort": name}
