"""A role's health port: it answers while the model loads, and what fails meanwhile is still told as what it is."""

from __future__ import annotations

import asyncio
import errno
import pathlib
import socket
import threading

import httpx
import pytest
from tests.unit.milliner.telemetry import otlp_receiver

from milliner.contract import kinds, role_config
from milliner.core import errors
from milliner.roles import __main__ as roles_main
from milliner.roles import cloud, http_server, reporter


def config(port: int, folder: pathlib.Path) -> role_config.CloudRoleConfig:
    return role_config.CloudRoleConfig(
        topology="chat",
        name="chat-cloud",
        model=role_config.ModelFiles(path=str(folder), served_name="a", dtype=kinds.Dtype.FLOAT32),
        slice=role_config.SliceBounds(start=1, end=4),
        health_port=port,
    )


async def test_it_says_that_the_model_is_being_loaded_and_a_failure_keeps_its_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading = threading.Event()

    def load(_: role_config.CloudRoleConfig) -> None:
        loading.wait(20)
        raise errors.CheckpointError("no config.json", field="model.path")

    monkeypatch.setattr(cloud, "_load", load)
    port = otlp_receiver.free_port()
    role = asyncio.create_task(cloud.run(config(port, tmp_path), report=reporter.Reporter(role="cloud", name="c")))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["reason"]) == (503, "the model is being loaded")
    loading.set()
    with pytest.raises(BaseExceptionGroup) as ended:
        await role
    assert isinstance(roles_main._expected(ended.value, (errors.MillinerError,)), errors.CheckpointError)


async def test_a_port_that_is_taken_is_named(tmp_path: pathlib.Path) -> None:
    taken = await asyncio.start_server(lambda *_: None, "0.0.0.0", 0)
    port = taken.sockets[0].getsockname()[1]
    with pytest.raises(errors.ConfigError) as refused:
        await cloud.run(config(port, tmp_path), report=reporter.Reporter(role="cloud", name="c"))
    assert refused.value.field == "health_port"
    taken.close()
    await taken.wait_closed()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_all_addresses_are_those_of_ipv4_and_of_ipv6(family: socket.AddressFamily) -> None:
    """A pod of a single-stack IPv6 cluster was not reached: it listened on 0.0.0.0."""
    with http_server.bind(http_server.ALL_ADDRESSES, 0) as listening, socket.socket(family) as client:
        listening.listen()
        if listening.family == socket.AF_INET and family == socket.AF_INET6:
            pytest.skip("this machine has no IPv6")
        client.settimeout(5)
        client.connect(("127.0.0.1" if family == socket.AF_INET else "::1", listening.getsockname()[1]))


def test_without_ipv6_all_addresses_are_those_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    def bound(host: str, port: int) -> socket.socket:
        if ":" in host:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(host, port)

    real = http_server._bound
    monkeypatch.setattr(http_server, "_bound", bound)
    with http_server.bind(http_server.ALL_ADDRESSES, 0) as listening:
        assert listening.family == socket.AF_INET
