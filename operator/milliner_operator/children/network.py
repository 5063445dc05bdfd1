"""Services and NetworkPolicies: only the declared edges, and name resolution. Pure."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from typing import Any

from milliner.contract import names
from milliner_operator import kinds
from milliner_operator.children import common

_DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
_DEFAULT_PORTS = {"http": 80, "https": 443}


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
    source_ports: Sequence[int],
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
        egress=[*egress, *_outgoing(source_ports=source_ports, otlp_endpoint=otlp_endpoint)],
    )


def device_policy(
    scope: common.Scope,
    name: str,
    *,
    pool: str,
    api_port: int | None,
    cloud_ports: Sequence[int],
    source_ports: Sequence[int],
    otlp_endpoint: str,
) -> dict[str, Any]:
    """In: the API, health and metrics. Out: the cloud tier (`cloud_ports`: of another cluster, anywhere)."""
    ingress = [{"ports": [_port(each)]} for each in (api_port, common.HEALTH_PORT) if each is not None]
    if cloud_ports:
        cloud: dict[str, Any] = {"ports": [_port(each) for each in sorted(set(cloud_ports))]}
    else:
        cloud = {"to": [_peer(scope, names.ROLE_CLOUD)], "ports": [_port(common.GRPC_PORT)]}
    egress = [cloud, *_outgoing(source_ports=source_ports, otlp_endpoint=otlp_endpoint)]
    return _policy(scope, name, role=names.ROLE_DEVICE, pool=pool, ingress=ingress, egress=egress)


def inspect_policy(scope: common.Scope, name: str, *, source_ports: Sequence[int]) -> dict[str, Any]:
    """In: nothing. Out: the source, if it is on the network."""
    return _policy(
        scope, name, role=common.ROLE_INSPECT, ingress=[], egress=_outgoing(source_ports=source_ports, otlp_endpoint="")
    )


def otlp_port(endpoint: str) -> int:
    """Port of an OTLP endpoint's URL."""
    url = urllib.parse.urlsplit(endpoint)
    return url.port or _DEFAULT_PORTS.get(url.scheme, 4317)


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


def _outgoing(*, source_ports: Sequence[int], otlp_endpoint: str) -> list[dict[str, Any]]:
    ports = [*source_ports, *([otlp_port(otlp_endpoint)] if otlp_endpoint else [])]
    return [_DNS, *([{"ports": [_port(each) for each in sorted(set(ports))]}] if ports else [])]


def _peer(scope: common.Scope, role: str) -> dict[str, Any]:
    labels = {names.LABEL_TOPOLOGY: names.child_name(scope.topology), names.LABEL_ROLE: role}
    return {"podSelector": {"matchLabels": labels}}


def _port(number: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": number}


def _service_port(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "protocol": "TCP", "port": port, "targetPort": name}
