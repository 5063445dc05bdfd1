"""The runner's own duties, with roles that are a few lines of Python: other ports, claims, what it leaves behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pathlib
import socket
import sys
import textwrap

import packaging.requirements
import pytest

from milliner.core import errors
from milliner.local import launches, packages, runner, state_files, supervisor

TOPOLOGY = """\
apiVersion: milliner.dev/v1alpha1
kind: InferenceTopology
metadata: {name: one}
spec:
  model: {source: model}
  strategy: {type: UShape}
  cloud: {replicas: 2}
  devicePools: [{name: pool, replicas: 1}]
"""
# Binds the configured port as a role does, says what it would say, and serves until it is ended.
ROLE = """
import json, socket, sys, time
config = json.load(open(sys.argv[1]))
def say(event, **rest):
    print(json.dumps({"event": event, "role": config["role"], "name": config["name"], **rest}), flush=True)
listening = socket.socket()
try:
    listening.bind((config["listen"]["host"], config["listen"]["port"]))
except OSError as error:
    say("failed", field="listen.port", message=str(error))
    sys.exit(2)
say("ready", data={"endpoints": config.get("cloudEndpoints", [])})
time.sleep(60)
"""


class Recorder:
    def __init__(self) -> None:
        self.states: list[tuple[str, supervisor.State, str]] = []

    def on_log(self, name: str, line: str) -> None:
        pass

    def on_state(self, name: str, state: supervisor.State, detail: str) -> None:
        self.states.append((name, state, detail))


@pytest.fixture
def file(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"num_hidden_layers": 6}))
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY)

    def command(role: launches.RoleLaunch, config: pathlib.Path) -> tuple[str, ...]:
        return (sys.executable, "-c", textwrap.dedent(ROLE), str(config))

    monkeypatch.setattr(runner, "_command", command)
    return path


@pytest.fixture
def state(tmp_path: pathlib.Path) -> state_files.StateFiles:
    return state_files.StateFiles(tmp_path / "run")


def run(launch: launches.TopologyLaunch, state: state_files.StateFiles, listener: Recorder) -> runner.Runner:
    return runner.Runner(launch, listener=listener, state=state, environment=os.environ, stop_grace_s=2.0)


async def test_a_cloud_port_that_another_program_took_is_exchanged_and_devices_know_it(
    file: pathlib.Path, state: state_files.StateFiles, tmp_path: pathlib.Path
) -> None:
    (launch,) = launches.plan_file(file)
    taken, heard = launch.clouds[1].config.listen.port, Recorder()
    with socket.create_server(("127.0.0.1", taken)):
        async with run(launch, state, heard) as one:
            running = await one.wait_ready(timeout_s=30)
            addresses = [endpoint.url for endpoint in running.clouds]
            assert addresses[0] == launch.clouds[0].address
            assert addresses[1] != launch.clouds[1].address
            (folder,) = (tmp_path / "run").glob("one.*.work")
            device = json.loads((folder / "pool-0.json").read_text())
            assert device["cloudEndpoints"] == addresses
            assert state.find("one") == running
    assert ("cloud-1", supervisor.State.RESTARTING) in [(name, state) for name, state, _ in heard.states]
    assert list((tmp_path / "run").iterdir()) == []


async def test_a_device_port_that_the_user_named_is_not_exchanged(
    file: pathlib.Path, state: state_files.StateFiles
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free: int = server.getsockname()[1]
    (launch,) = launches.plan_file(file, wishes=launches.PortWishes(first=free))
    with socket.create_server(("127.0.0.1", free)):
        async with run(launch, state, Recorder()) as one:
            with pytest.raises(errors.ConfigError, match=f"--device-port: port {free} on 127.0.0.1 is in use"):
                await one.wait_ready(timeout_s=30)
    (unnamed,) = launches.plan_file(file)
    with socket.create_server(("127.0.0.1", unnamed.devices[0].config.listen.port)):
        async with run(unnamed, state, Recorder()) as one:
            running = await one.wait_ready(timeout_s=30)
            assert running.devices[0].url != f"http://{unnamed.devices[0].address}"


async def test_a_second_of_one_name_is_refused_before_it_starts_anything_and_harms_nothing(
    file: pathlib.Path, state: state_files.StateFiles
) -> None:
    (launch,) = launches.plan_file(file)
    heard = Recorder()
    async with run(launch, state, Recorder()) as one:
        with pytest.raises(errors.ConfigError, match=f"one runs here already as process {os.getpid()}"):
            await run(launch, state, heard).__aenter__()
        assert heard.states == []
        running = await one.wait_ready(timeout_s=30)
        with pytest.raises(errors.ConfigError, match="one runs here already"):
            await run(launch, state, heard).__aenter__()
        assert state.find("one") == running
    assert state.running() == []


def test_every_package_of_the_extra_is_looked_for() -> None:
    requirements = [packaging.requirements.Requirement(text) for text in importlib.metadata.requires("milliner") or ()]
    extra = {one.name for one in requirements if one.marker is not None and one.marker.evaluate({"extra": "runtime"})}
    assert extra - set(packages.RUNTIME.values()) == {"opentelemetry-api"}  # which opentelemetry-sdk brings
    assert packages.absent() == []


async def test_absent_packages_are_named_with_the_remedy(
    file: pathlib.Path, state: state_files.StateFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "RUNTIME", {"json": "json", "nowhere": "grpcio", "nowhere.sdk": "nowhere-sdk"})
    (launch,) = launches.plan_file(file)
    heard = Recorder()
    with pytest.raises(errors.ConfigError, match=r"not installed: grpcio, nowhere-sdk; .*milliner\[runtime\]"):
        await run(launch, state, heard).__aenter__()
    assert heard.states == []
