"""manifests/ is what the charts render, and what it says of kind and of alerts holds."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from tests.chart import charts

from milliner.contract import topology

MANIFESTS = charts.ROOT / "manifests"


def test_rendered_files_are_those_of_the_charts() -> None:
    if shutil.which("helm") is None:
        pytest.skip("helm is not on the PATH: install Helm 3 or 4")
    command = [sys.executable, str(MANIFESTS / "render.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=charts.DEADLINE_S, check=False)
    assert done.returncode == 0, f"run `python manifests/render.py`: {done.stdout}{done.stderr}"


def test_kind_nodes_fit_the_topology_beside_them() -> None:
    cluster = yaml.safe_load((MANIFESTS / "kind" / "kind-config.yaml").read_text())
    labels = [node.get("labels", {}) for node in cluster["nodes"] if node["role"] == "worker"]
    spec = topology.parse(yaml.safe_load((MANIFESTS / "kind" / "chat.yaml").read_text())).spec
    (pool,) = spec.device_pools
    assert sum(spec.cloud.pod.node_selector.items() <= each.items() for each in labels) == 1
    assert sum(pool.node_selector.items() <= each.items() for each in labels) == 2


def test_every_alert_is_in_the_runbook() -> None:
    groups = yaml.safe_load((MANIFESTS / "alerts" / "milliner.yaml").read_text())["groups"]
    alerts = [rule["alert"] for group in groups for rule in group["rules"]]
    headings = re.findall(r"^## (\w+)$", (MANIFESTS / "alerts" / "README.md").read_text(), re.MULTILINE)
    assert headings == alerts
