"""Nodes that are only objects: kwok plays them and their pods, which are ready at once and do nothing.

MILLINER_TEST_FAKE_NODES is a shell command that makes as many such nodes as the number put after it, named in any way,
with the label `type: kwok` and the taint `kwok.x-k8s.io/node`. They are deleted here.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from tests.cluster import api_server

VARIABLE = "MILLINER_TEST_FAKE_NODES"
NODES = "/api/v1/nodes"
OPTIONS = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
}
"""Pod options of a tier that is to run there."""
FAKE: dict[str, Any] = {
    "cloud": {"pod": OPTIONS},
    "devicePools": [
        {
            "name": "fake",
            "replicas": 1,
            "pod": {"tolerations": OPTIONS["tolerations"]},
            "nodeSelector": OPTIONS["nodeSelector"],
        }
    ],
}
"""A spec of which nothing runs anywhere else."""
_MAKING_S = 120.0


def make(count: int) -> None:
    """So many fake nodes, ready; skips where nobody says how."""
    command = os.environ.get(VARIABLE, "")
    if not command:
        pytest.skip(
            f"needs fake nodes: set {VARIABLE} to a command that takes their number (tests/cluster/fake_nodes.py)"
        )
    subprocess.run(f"{command} {count}", shell=True, check=True, timeout=_MAKING_S)


def delete(server: api_server.ApiServer) -> None:
    """Deletes them all; their pods go with them."""
    server.request("DELETE", NODES, labelSelector="type=kwok")
