"""Alerts, dashboards and autoscalers ask for metrics that exist, with labels that these have."""

from __future__ import annotations

import json
import pathlib
import re

import prometheus_client
import pytest
import yaml
from tests.chart import charts

from milliner.contract import cloud, names
from milliner.core import clock
from milliner.telemetry import cloud_metrics, metrics
from milliner_operator import metrics as operator_metrics

FILES = sorted(
    [*(charts.OPERATOR_CHART / "alerts").glob("*.yaml"), *(charts.OPERATOR_CHART / "dashboards").glob("*.json")]
)
AUTOSCALING = charts.ROOT / "manifests" / "autoscaling"
LABEL = re.compile(r"\bmilliner_dev_\w+")  # of pods, made by Prometheus
METRIC = re.compile(r"\bmilliner_\w+")


def known() -> set[str]:
    """The names that Prometheus knows the metrics of devices, cloud pods and the operator by."""
    operators = prometheus_client.CollectorRegistry()
    operator_metrics.Metrics(operators)
    devices = metrics.DeviceMetrics(model="any", strategy="any").registry
    replicas = cloud_metrics.CloudMetrics(clock=clock.LoopClock()).registry
    found = set()
    for family in (*operators.collect(), *devices.collect(), *replicas.collect()):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_metrics_exist(path: pathlib.Path) -> None:
    queries = _queries(path)
    used = {name for query in queries for name in METRIC.findall(LABEL.sub("", query))}
    assert used and used <= known()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_pod_labels_are_those_that_the_pod_monitor_takes_over(path: pathlib.Path) -> None:
    documents = charts.rendered(charts.OPERATOR_CHART / "ci" / "monitored-values.yaml")
    taken = charts.only(documents, "PodMonitor")["spec"]["podTargetLabels"]
    used = {label for query in _queries(path) for label in LABEL.findall(query)}
    assert used <= {re.sub(r"[^a-zA-Z0-9]", "_", label) for label in taken}


def test_dashboards_can_be_imported() -> None:
    for path in FILES:
        if path.suffix == ".json":
            dashboard = json.loads(path.read_text())
            panels = dashboard["panels"]
            assert dashboard["uid"] and len({panel["id"] for panel in panels}) == len(panels)
            assert {each["name"] for each in dashboard["templating"]["list"]} >= {"datasource"}


def test_the_adapter_serves_the_metric_that_the_operator_is_told_of() -> None:
    [rule] = yaml.safe_load((AUTOSCALING / "prometheus-adapter-values.yaml").read_text())["rules"]["custom"]
    told = yaml.safe_load((charts.OPERATOR_CHART / "ci" / "monitored-values.yaml").read_text())
    assert rule["name"]["as"] == told["operator"]["queueMetric"]
    assert set(METRIC.findall(rule["seriesQuery"])) == {rule["name"]["as"]} <= known()


def test_keda_scales_topologies_on_a_metric_that_exists() -> None:
    scaled = yaml.safe_load((AUTOSCALING / "keda-scaledobject.yaml").read_text())["spec"]
    assert scaled["scaleTargetRef"] == {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "chat"}
    [trigger] = scaled["triggers"]
    query = trigger["metadata"]["query"]
    assert set(METRIC.findall(LABEL.sub("", query))) <= known()
    assert int(trigger["metadata"]["threshold"]) == cloud.Scaling(max_replicas=1).target_queue_milliseconds


def _queries(path: pathlib.Path) -> list[str]:
    if path.suffix == ".json":
        dashboard = json.loads(path.read_text())
        targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
        return targets + [each["definition"] for each in dashboard["templating"]["list"] if "definition" in each]
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]
