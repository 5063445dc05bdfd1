"""custom.metrics.k8s.io as prometheus-adapter serves it: the shipped rule's query, filled in as the adapter fills it
in, put to a real Prometheus; one value per pod. Runs beside the tests, where the API server reaches it."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import pathlib
import re
import socket
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.chart import charts, kubectl
from tests.e2e import prometheus_server

NAME = "milliner-test-adapter"
GROUP_VERSION = "custom.metrics.k8s.io/v1beta1"
VALUES = charts.ROOT / "manifests" / "autoscaling" / "prometheus-adapter-values.yaml"
_PATH = re.compile(rf"/apis/{GROUP_VERSION}/namespaces/(?P<namespace>[^/]+)/pods/\*/(?P<metric>\w+)")


class Adapter:
    """The shipped rule and the Prometheus that it asks."""

    def __init__(self, prometheus: prometheus_server.Prometheus) -> None:
        [self.rule] = yaml.safe_load(VALUES.read_text(encoding="utf-8"))["rules"]["custom"]
        self._prometheus = prometheus

    @property
    def metric(self) -> str:
        name: str = self.rule["name"]["as"]
        return name

    def discovered(self) -> bool:
        """Whether Prometheus has series that the rule is for."""
        return bool(self._prometheus.query(self.rule["seriesQuery"]))

    def values(self, namespace: str, selector: str) -> dict[str, float]:
        """The metric by pod, of those that the selector chooses."""
        output = ("--selector", selector, "--output", "jsonpath={.items[*].metadata.name}")
        pods = kubectl.run("get", "pods", "--namespace", namespace, *output).split()
        overrides = {each["resource"]: label for label, each in self.rule["resources"]["overrides"].items()}
        matchers = f'{overrides["namespace"]}="{namespace}",{overrides["pod"]}=~"{"|".join(pods)}"'
        query = self.rule["metricsQuery"]
        series = self.rule["seriesQuery"].partition("{")[0]
        filled_in = (("<<.Series>>", series), ("<<.LabelMatchers>>", matchers), ("<<.GroupBy>>", overrides["pod"]))
        for placeholder, text in filled_in:
            query = query.replace(placeholder, text)
        return {labels[overrides["pod"]]: value for labels, value in self._prometheus.query(query)}

    def answer(self, path: str) -> dict[str, Any] | None:
        """The document at a path of the API; None where there is none."""
        url = urllib.parse.urlsplit(path)
        if url.path == f"/apis/{GROUP_VERSION}":
            resource = {"name": f"pods/{self.metric}", "namespaced": True, "kind": "MetricValueList", "verbs": ["get"]}
            resource["singularName"] = ""
            return {"kind": "APIResourceList", "groupVersion": GROUP_VERSION, "resources": [resource]}
        found = _PATH.fullmatch(urllib.parse.unquote(url.path))
        if found is None or found["metric"] != self.metric:
            return None
        selector = urllib.parse.parse_qs(url.query).get("labelSelector", [""])[0]
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        items = [
            {
                "describedObject": {"kind": "Pod", "apiVersion": "/v1", "namespace": found["namespace"], "name": pod},
                "metricName": self.metric,
                "timestamp": now,
                "value": f"{round(1000 * value)}m",
            }
            for pod, value in self.values(found["namespace"], selector).items()
        ]
        return {"kind": "MetricValueList", "apiVersion": GROUP_VERSION, "metadata": {}, "items": items}


@contextlib.contextmanager
def serving(adapter: Adapter, folder: pathlib.Path) -> Iterator[None]:
    """The API server has the custom-metrics API, answered by `adapter`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = adapter.answer(self.path)
            body = json.dumps(document or {}).encode()
            self.send_response(200 if document is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing: tests show what failed."""

    address = _own_address()
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(folder, address))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            kubectl.apply(registration(address, server.server_port))
            yield
        finally:
            service = ("service,endpointslice", NAME, "--namespace", charts.NAMESPACE)
            kubectl.run("delete", "apiservice", "v1beta1.custom.metrics.k8s.io", "--ignore-not-found")
            kubectl.run("delete", *service, "--ignore-not-found")
            server.shutdown()
            thread.join()


def registration(address: str, port: int) -> list[charts.Document]:
    """The API as an APIService, and a Service that leads out of the cluster to it."""
    metadata = {"name": NAME, "namespace": charts.NAMESPACE}
    ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    labels = {"kubernetes.io/service-name": NAME}
    group, version = GROUP_VERSION.split("/")
    registered = {
        "group": group,
        "version": version,
        "service": {"name": NAME, "namespace": charts.NAMESPACE, "port": port},
        "insecureSkipTLSVerify": True,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata | {"labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": f"{version}.{group}"},
            "spec": registered,
        },
    ]


def _own_address() -> str:
    """This machine's address as nodes see it."""
    output = 'jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}'
    node = kubectl.run("get", "nodes", "--output", output)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsent:
        unsent.connect((node, 9))
        address: str = unsent.getsockname()[0]
    return address


def _certificate(folder: pathlib.Path, address: str) -> pathlib.Path:
    """A self-signed certificate with its key, as the API server need not verify it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    path = folder / "adapter.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path
