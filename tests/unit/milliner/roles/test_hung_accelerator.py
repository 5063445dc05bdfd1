"""A cloud role whose accelerator blocks while its process answers: it says so by all means, and takes it back."""

from __future__ import annotations

import asyncio
import os
import pathlib
import signal
import threading

import httpx
import pytest
import torch
from tests.unit.milliner.engine import toys
from tests.unit.milliner.telemetry import otlp_receiver

from milliner.contract import kinds, role_config
from milliner.core import errors, types
from milliner.engine import progress
from milliner.roles import cloud, hidden_state_service, reporter
from milliner.wire import client

WIDTH = 8
SERVED = hidden_state_service.Served(
    model_digest="sha256:0", slice_start=1, slice_end=4, hidden_size=WIDTH, dtype=torch.float32
)


def config(folder: pathlib.Path, *, health_port: int, port: int) -> role_config.CloudRoleConfig:
    return role_config.CloudRoleConfig(
        topology="chat",
        name="chat-cloud",
        model=role_config.ModelFiles(path=str(folder), served_name="a", dtype=kinds.Dtype.FLOAT32),
        slice=role_config.SliceBounds(start=1, end=4),
        listen=role_config.Listen(port=port),
        health_port=health_port,
        drain_seconds=0,
    )


def session_open(session_id: str) -> types.SessionOpen:
    return types.SessionOpen(session_id, SERVED.model_digest, 1, 4, WIDTH, max_positions=16)


def frame(session_id: str) -> types.HiddenFrame:
    payload = types.Payload(codec=types.Codec.FLOAT32, num_tokens=1, data=bytes(4 * WIDTH))
    return types.HiddenFrame(
        session_id=session_id,
        round=0,
        commit_pos=0,
        start_pos=0,
        kind=types.FrameKind.CHUNK,
        payloads=(payload,),
        reply_positions=types.ReplyPositions.NONE,
        reply_codec=types.Codec.FLOAT32,
    )


async def until(http: httpx.AsyncClient, path: str, status_code: int) -> httpx.Response:
    """The first answer with this status."""
    async with asyncio.timeout(15):
        while True:
            try:
                answer = await http.get(path)
            except httpx.TransportError:
                await asyncio.sleep(0.01)
                continue
            if answer.status_code == status_code:
                return answer
            await asyncio.sleep(0.01)


async def test_it_is_neither_ready_nor_alive_and_its_sessions_end_until_it_works_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "OVERDUE_MIN_S", 0.3)
    monkeypatch.setattr(progress, "LOOK_EVERY_S", 0.05)
    working = threading.Event()
    working.set()
    backend = toys.ToyBackend()
    backend.gate = lambda: working.wait(20)
    monkeypatch.setattr(cloud, "_load", lambda _: (backend, SERVED))
    health_port, port = otlp_receiver.free_port(), otlp_receiver.free_port()
    target = f"127.0.0.1:{port}"
    role = asyncio.create_task(
        cloud.run(
            config(tmp_path, health_port=health_port, port=port), report=reporter.Reporter(role="cloud", name="c")
        )
    )
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{health_port}", trust_env=False) as http,
        client.GrpcTransport([target]) as transport,
        client.GrpcTransport([target]) as onlooker,
    ):
        await until(http, "/readyz", 200)
        assert await onlooker.why_unreachable() == ""
        stream = await transport.open(session_open("first"))
        working.clear()
        await stream.send(frame("first"))
        with pytest.raises(errors.UnavailableError, match="the accelerator has not finished a batch"):
            await stream.receive()
        for path in ("/readyz", "/healthz"):
            assert "the accelerator has not finished a batch" in (await until(http, path, 503)).json()["reason"]
        async with asyncio.timeout(5):
            while not await onlooker.why_unreachable():
                await asyncio.sleep(0.01)
        with pytest.raises(errors.UnavailableError):
            await transport.open(session_open("second"))

        working.set()
        for path in ("/readyz", "/healthz"):
            await until(http, path, 200)
        async with asyncio.timeout(5):
            while await onlooker.why_unreachable():
                await asyncio.sleep(0.01)
        stream = await transport.open(session_open("third"))
        await stream.send(frame("third"))
        assert (await stream.receive()).kv_len == 1
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(15):
        await role
    events = [line for line in capsys.readouterr().out.splitlines() if "accelerator" in line]
    assert len(events) == 1 and '"waiting"' in events[0]
