"""`milliner up` with a pipeline of three stages as processes: the same tokens, also when the middle one is killed."""

from __future__ import annotations

import base64
import datetime
import pathlib
import signal
import time
from collections.abc import Mapping
from concurrent import futures

import httpx
from tests.system import role_processes, test_loss
from tests.system import test_local_topologies as local

from milliner.contract import role_config, role_events
from milliner_operator import certificates

environment = local.environment
MAX_TOKENS = 60


def staged(write_topology: object, name: str, stages: int) -> str:
    """A topology of `stages`; 60 tokens take about two seconds, time to kill something meanwhile."""
    path: pathlib.Path = write_topology(name)  # type: ignore[operator]
    emulation = "emulation: {compute: {layers: {fixedMicroseconds: 30000}}}"
    text = path.read_text()
    changed = text.replace("cloud: {engine", f"cloud: {{pipelineStages: {stages}, {emulation}, engine")
    assert changed != text
    path.write_text(changed + "  fallback: {onCloudLoss: Wait, waitSeconds: 120}\n")
    return str(path)


def answer(url: str) -> list[int]:
    body = {"model": "tiny", "prompt": "hello there", "max_tokens": MAX_TOKENS, "temperature": 0}
    body |= {"ignore_eos": True, "return_token_ids": True}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=150.0, trust_env=False)
    assert response.status_code == 200, response.text
    tokens: list[int] = response.json()["choices"][0]["token_ids"]
    return tokens


def test_a_killed_middle_stage_costs_time_and_no_token(write_topology: object, environment: dict[str, str]) -> None:
    with local.up("-f", staged(write_topology, "tiny", 1), environment=environment) as one:
        expected = answer(one.running[0]["devices"][0]["url"])
        assert one.end(signal.SIGINT) == 0
    with local.up("-f", staged(write_topology, "tiny", 3), environment=environment) as one:
        assert sorted(one.by_name) == ["cloud-0", "cloud-stage1-0", "cloud-stage2-0", "pool-0"]
        url = one.running[0]["devices"][0]["url"]
        assert answer(url) == expected
        with futures.ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(answer, url)
            time.sleep(0.7)
            assert not waiting.done()
            one.by_name["cloud-stage1-0"].kill()
            assert waiting.result(150.0) == expected
        assert one.log.count("restarting: was killed by SIGKILL") == 1
        one.note_children()
        assert one.end(signal.SIGINT) == 0
        assert one.alive(within_s=0.0) == []


def test_more_stages_than_layers_are_refused(write_topology: object, environment: dict[str, str]) -> None:
    result = local.milliner("up", "-f", staged(write_topology, "tiny", 4), environment=environment)
    assert result.returncode == 2
    assert "cloud.pipelineStages is 4, the cloud has 3 of the model's layers: use 1 to 3" in result.stderr


def secured(secret: Mapping[str, str], folder: pathlib.Path) -> role_config.TlsFiles:
    """A Secret's files as a pod has them mounted."""
    folder.mkdir()
    for key, value in secret.items():
        (folder / key).write_bytes(base64.b64decode(value))
    ca, certificate, key = (str(folder / name) for name in ("ca.crt", "tls.crt", "tls.key"))
    return role_config.TlsFiles(ca_file=ca, certificate_file=certificate, key_file=key, server_name="chat-cloud.ns.svc")


def test_stages_know_one_another_by_the_operators_certificates(
    tiny_model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    made = certificates.ensure(
        ca=None,
        cloud=None,
        device=None,
        topology="chat",
        cloud_names=("chat-cloud.ns.svc", "chat-cloud-stage1.ns.svc"),
        cloud_calls=True,
        now=datetime.datetime.now(datetime.UTC),
    )
    tls = secured(made.cloud, tmp_path / "tls")
    whole = test_loss.cloud_config(tiny_model).model_copy(update={"tls": tls})
    last = whole.model_copy(update={"name": "last", "stage": 1, "slice": role_config.SliceBounds(start=2, end=4)})
    with role_processes.running(last, tmp_path) as behind:
        following = role_config.NextStage(endpoints=(f"127.0.0.1:{behind.port}",), chain_end=4)
        update = {"name": "first", "slice": role_config.SliceBounds(start=1, end=2), "next_stage": following}
        first = role_processes.Role(whole.model_copy(update=update), tmp_path)
        try:
            first.wait_for(role_events.RoleEventKind.READY)
            before = sum(event.event is role_events.RoleEventKind.WAITING for event in first.events)
            behind.kill()
            first.wait_for(role_events.RoleEventKind.WAITING, count=before + 1)  # its health is the chain's
        finally:
            first.close()
