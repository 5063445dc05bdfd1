"""Values that the chart's schema refuses, each with a message that names the value."""

from __future__ import annotations

import json

import pytest
import yaml
from tests.chart import charts

BAD = {
    "replicas": "2",
    "image.repository": '""',
    "image.digest": '"sha256:short"',
    "image.tag": '"a tag"',
    "image.pullPolicy": '"Sometimes"',
    "runtimeImage.pullPolicy": '"if-not-present"',
    "imagePullSecrets": '["registry"]',
    "watchNamespaces": '["Team_A"]',
    "rbac.namespaced": '"yes"',
    "rbac.clusterScoped": "true",
    "operator.logLevel": '"verbose"',
    "operator.resyncSeconds": "1",
    "operator.livenessPort": "80",
    "metrics.port": "70000",
    "metrics.serviceMonitor.interval": '"often"',
    "podDisruptionBudget.maxUnavailable": '"50%"',
    "networkPolicy.apiServerCidrs": '["kubernetes.default"]',
    "networkPolicy.apiServerPorts": "[0]",
    "tracing.samplingPercent": "101",
    "tracing.otlpEndpoint": '"otel-collector:4317"',
    "sources.hubEndpoint": '"hub.example.com"',
    "sources.httpsProxy": '"proxy:3128"',
    "prometheusRule.runbookUrl": '"docs/operations.md"',
    "extraEnv": '["A=b"]',
    "nodeSelector": '{"gpu": true}',
}


@pytest.mark.parametrize("path", BAD)
def test_refused(path: str) -> None:
    message = charts.refusal({path: BAD[path]})
    assert path.rpartition(".")[2] in message


def test_every_value_has_a_schema_and_a_comment() -> None:
    text = (charts.OPERATOR_CHART / "values.yaml").read_text()
    schema = json.loads((charts.OPERATOR_CHART / "values.schema.json").read_text())
    _compare(yaml.safe_load(text), schema, path="values")
    lines = text.splitlines()
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if line and not line.startswith((" ", "#")):
            assert any(each.lstrip().startswith("# -- ") for each in (before, after)), f"{line} has no comment"


def _compare(values: dict[str, object], schema: dict[str, object], *, path: str) -> None:
    properties = schema["properties"]
    assert isinstance(properties, dict)
    assert set(values) == set(properties) - {"global"}, path
    for name, value in values.items():
        if isinstance(value, dict) and "properties" in properties[name]:
            _compare(value, properties[name], path=f"{path}.{name}")
