"""Roles as processes that have addresses of IPv6 alone: mutual TLS, a name that leads there, an emulated link."""

from __future__ import annotations

import pathlib
import socket

import httpx
import pytest
from tests.system import role_processes, test_loss
from tests.wire import certificates

from milliner.contract import operations, role_config

LOOPBACK = "::1"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_both_tiers_over_ipv6(tmp_path: pathlib.Path, tiny_model: pathlib.Path) -> None:
    cloud_tier, device_tier = certificates.tiers(tmp_path, certificates.authority("topology t"))
    listen = role_config.Listen(host=LOOPBACK)
    cloud = test_loss.cloud_config(tiny_model).model_copy(
        update={"listen": listen, "tls": cloud_tier.files, "emulation": None}
    )
    with role_processes.running(cloud, tmp_path) as serving:
        device = test_loss.device_config(
            tiny_model, serving.port, fallback=operations.Fallback(wait_seconds=5), link=True
        )
        endpoints = (f"dns:[{LOOPBACK}]:{serving.port}",)
        device = device.model_copy(update={"listen": listen, "tls": device_tier.files, "cloud_endpoints": endpoints})
        with role_processes.running(device, tmp_path) as answering:
            body = {"model": "tiny", "prompt": "hello", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
            url = f"http://[{LOOPBACK}]:{answering.port}/v1/completions"
            answer = httpx.post(url, json=body, timeout=90, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 4
