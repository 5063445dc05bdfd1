"""`milliner up` with real processes over a tiny model: serving, restart after a crash, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

READY_S = 120.0  # four processes that import torch on a busy machine


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> dict[str, str]:
    runtime = tmp_path / "run"
    runtime.mkdir()
    return os.environ | {"XDG_RUNTIME_DIR": str(runtime), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def milliner(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milliner.cli.main", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=READY_S)


class Up:
    """A running `milliner up`, ready, with what it said."""

    def __init__(self, process: subprocess.Popen[str], log: pathlib.Path, topologies: int) -> None:
        self.process = process
        self._log = log
        assert process.stdout is not None
        self.running = [json.loads(process.stdout.readline() or "{}") for _ in range(topologies)]
        assert all(self.running), self.log
        self.note_children()

    def note_children(self) -> None:
        """Takes down which processes run now, by the name of their role."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.by_name = {pathlib.Path(child.cmdline()[-1]).stem: child for child in children}

    @property
    def log(self) -> str:
        return self._log.read_text()

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def alive(self, *, within_s: float) -> list[psutil.Process]:
        """Children that are still there after `within_s` at most."""
        return psutil.wait_procs(list(self.by_name.values()), timeout=within_s)[1]


@contextlib.contextmanager
def up(*arguments: str, environment: dict[str, str], topologies: int = 1) -> Iterator[Up]:
    log = pathlib.Path(environment["XDG_RUNTIME_DIR"]) / "up.log"
    command = [sys.executable, "-m", "milliner.cli.main", "up", "--json", *arguments]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            yield Up(process, log, topologies)
        finally:
            process.kill()


def complete(url: str) -> dict[str, object]:
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 8, "temperature": 0}
    body |= {"ignore_eos": True, "return_token_ids": True}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=30.0, trust_env=False)
    response.raise_for_status()
    choice: dict[str, object] = response.json()["choices"][0]
    return choice


def wait_until_served(url: str) -> dict[str, object]:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return complete(url)
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "not served again in time"
            time.sleep(0.2)


def test_a_topology_serves_survives_crashes_and_ends_cleanly(
    write_topology: object, environment: dict[str, str]
) -> None:
    file = str(write_topology())  # type: ignore[operator]
    with up("-f", file, environment=environment) as one:
        url = one.running[0]["devices"][0]["url"]
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        before = complete(url)
        assert len(before["token_ids"]) == 8  # type: ignore[arg-type]

        answer = milliner("generate", "hello", "-n", "8", "--json", environment=environment)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["milliner"]["generated_tokens"] >= 1

        second = milliner("up", "-f", file, environment=environment)
        assert second.returncode == 2
        assert "tiny runs here already" in second.stderr

        for name in ("cloud-0", "pool-0"):
            one.by_name[name].kill()
            one.by_name[name].wait(5)
            assert wait_until_served(url)["token_ids"] == before["token_ids"]
        assert one.log.count("restarting: was killed by SIGKILL") == 2

        one.note_children()
        assert one.end(signal.SIGINT) == 0
        assert one.alive(within_s=0.0) == []
    runtime = pathlib.Path(environment["XDG_RUNTIME_DIR"]) / "milliner"
    assert list(runtime.iterdir()) == []


def test_two_topologies_at_once_and_nothing_left_after_kill_9(
    write_topology: object, tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    first, second = (write_topology(name).read_text() for name in ("one", "two"))  # type: ignore[operator]
    both = tmp_path / "both.yaml"
    both.write_text(f"{first}---\n{second}")
    with up("-f", str(both), environment=environment, topologies=2) as running:
        assert [topology["name"] for topology in running.running] == ["one", "two"]
        urls = {topology["devices"][0]["url"] for topology in running.running}
        assert len(urls) == 2
        assert sorted(running.by_name) == ["one.cloud-0", "one.pool-0", "two.cloud-0", "two.pool-0"]

        unnamed = milliner("generate", "hello", environment=environment)
        assert (unnamed.returncode, "several topologies run here (one, two)" in unnamed.stderr) == (2, True)
        named = milliner("generate", "hello", "-n", "2", "--name", "two", environment=environment)
        assert named.returncode == 0, named.stderr

        running.end(signal.SIGKILL)
        assert running.alive(within_s=10.0) == []
    gone = milliner("generate", "hello", "--name", "one", environment=environment)
    assert (gone.returncode, "one does not run here (running: none)" in gone.stderr) == (2, True)


def test_a_damaged_model_ends_up_with_one_clear_line(
    write_topology: object, tiny_model: pathlib.Path, tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in tiny_model.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    (damaged / "model.safetensors").write_bytes(b"not safetensors")
    topology: pathlib.Path = write_topology(source=damaged.as_uri())  # type: ignore[operator]
    result = milliner("up", "-f", str(topology), "--quiet", environment=environment)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "model.safetensors" in errors[0]
    assert "Traceback" not in result.stderr


def test_a_handover_serves_here_and_survives_its_cloud(
    tiny_model: pathlib.Path, tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    file = tmp_path / "handover.yaml"
    file.write_text(
        f"""\
apiVersion: milliner.dev/v1alpha1
kind: InferenceTopology
metadata: {{name: tiny}}
spec:
  model: {{source: {tiny_model.as_uri()}}}
  strategy: {{type: PDDevice}}
  cloud: {{engine: {{kvCacheMebibytes: 16}}}}
  devicePools: [{{name: pool, replicas: 1}}]
"""
    )
    with up("-f", str(file), environment=environment) as one:
        url = one.running[0]["devices"][0]["url"]
        before = complete(url)
        assert len(before["token_ids"]) == 8  # type: ignore[arg-type]
        one.by_name["cloud-0"].kill()
        assert complete(url)["token_ids"] == before["token_ids"]
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        assert one.end(signal.SIGINT) == 0
        assert one.alive(within_s=0.0) == []
